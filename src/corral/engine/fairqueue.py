"""The queue for places, served by Virtual Token Counter: whoever has been served least is next.

"Fairness in Serving Large Language Models", OSDI '24, arXiv 2401.00588, with its extensions for weights and for
predicted lengths. Service is counted in tokens: a prompt's once, an answer's twice, since they take longer.

Of each client it is known what it was served, and what its running requests still hold: the estimates given for them,
less what they have used. Both are divided by the client's weight. Their sum is its counter, and the lowest is next.

- Estimates never make a newcomer wait: it is lifted to no more than the least *service* among those who wait, so that
  no counter can fall below its own, however far the estimates were off. One request is delayed by those that run, not
  by those that were queued before it.
- For two clients that both wait all the time, the service received, divided by the weights, differs by at most
  2 × places × the largest request (the larger of its estimate and its use) over the smallest weight, in any interval
  in which both are light or both are heavy (see `headroom`), besides what one of them was behind at its beginning.
  That is the paper's 2·max(w_p·L, w_q·M), where M is what fits into the running batch.
- A light client may be next though its counter is up to `CREDIT` mean requests above a heavy one's: else one that was
  served just now waits behind a flood that has had no less. So a heavy client falls behind a light one by that and
  the bound above, and by more only while heavy clients run in all the places that headroom leaves them.
- As in the paper, clients never seen before come before those served already, however many they are: a flood of
  invented clients is for the quotas and the bans to stop. Who waits for them is refused in the end by its deadline.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from corral.engine.ranking import Ranking

T = TypeVar("T", bound=Hashable)

INPUT = 1.0
"""What a token of a prompt counts (the paper, section 3.1)."""

OUTPUT = 2.0
"""What a generated token counts."""

REMEMBERED = 1024
"""Of how many clients that have gone it is remembered that they were served ahead of others."""


CREDIT = 8.0
"""How many mean requests ahead of a heavy client a light one may be, and still be next."""

_NEWEST = 0.1
"""The share of the newest request in the mean."""


def service(prompt_tokens: float, completion_tokens: float) -> float:
    """Weigh tokens: the unit of every `estimate` and of all service here."""
    return INPUT * prompt_tokens + OUTPUT * completion_tokens


class _Account(Generic[T]):
    """What is known of a client that waits or runs. `served` and `held` are service divided by weight."""

    __slots__ = ("client", "heavy", "held", "running", "served", "size", "waiting")

    def __init__(self, client: Hashable, served: float) -> None:
        self.client = client
        self.heavy = False
        self.served = served
        self.held = 0.0
        self.running = 0
        self.waiting: OrderedDict[T, _Request[T]] = OrderedDict()
        self.size = 0


class _Request(Generic[T]):
    """A ticket that waits or runs.

    Of its service, divided by weight: `held` is not used yet, `used` is counted, `free` is not (nobody waited then).
    """

    __slots__ = ("account", "deadline", "free", "held", "size", "used", "weight")

    def __init__(self, account: _Account[T], weight: float, held: float, *, size: int, deadline: float) -> None:
        self.account = account
        self.weight = weight
        self.held = held
        self.used = 0.0
        self.free = 0.0
        self.size = size
        self.deadline = deadline


class FairQueue(Generic[T]):
    """Who waits, who is next, and what those who run have been served. A ticket is any hashable, and in here once.

    Joining, starting, charging and leaving cost O(log n) in the clients that wait. Known are those that wait or run,
    and `REMEMBERED` clients more: those that went when they had been served ahead of the others, so that going and
    coming back gains nothing. A client at the floor equals one never seen. When more than that have gone the first
    gone is forgotten, and gains what it was ahead.
    """

    def __init__(self) -> None:
        self._accounts: dict[Hashable, _Account[T]] = {}
        self._waiting: OrderedDict[T, _Request[T]] = OrderedDict()
        self._running: dict[T, _Request[T]] = {}
        self._by_counter: Ranking[_Account[T]] = Ranking()
        self._light: Ranking[_Account[T]] = Ranking()
        self._by_service: Ranking[_Account[T]] = Ranking()
        self._by_count: Ranking[_Account[T]] = Ranking()
        self._by_size: Ranking[_Account[T]] = Ranking()
        self._gone: OrderedDict[Hashable, float] = OrderedDict()
        self._last = 0.0
        self._mean = 0.0
        self.size = 0

    def __len__(self) -> int:
        """How many wait. `size` is what they take together, in bytes."""
        return len(self._waiting)

    def __contains__(self, ticket: T) -> bool:
        """Tell whether a ticket waits."""
        return ticket in self._waiting

    @property
    def known(self) -> int:
        """How many clients anything is known of."""
        return len(self._accounts) + len(self._gone)

    # who waits

    def join(
        self,
        ticket: T,
        client: Hashable,
        *,
        weight: float,
        estimate: float,
        size: int,
        deadline: float,
        heavy: bool = False,
    ) -> None:
        """Queue a ticket. `deadline` (seconds) must not lie before the one given last; `heavy` is as in `file`."""
        account = self._open(client)
        request = _Request(account, weight, estimate / weight, size=size, deadline=deadline)
        self._waiting[ticket] = account.waiting[ticket] = request
        self.size += size
        account.size += size
        if len(account.waiting) == 1:
            account.heavy = heavy
            self._rank(account)
        self._measure(account)

    def file(self, client: Hashable, *, heavy: bool) -> None:
        """Say whether a client is heavy: one that `start` may be asked to pass over (see `headroom`)."""
        account = self._accounts.get(client)
        if account is not None and account.heavy != heavy:
            account.heavy = heavy
            if heavy:
                self._light.drop(account)
            elif account.waiting:
                self._light.put(account, account.served + account.held)

    def leave(self, ticket: T) -> None:
        """Take a ticket out of the queue; it costs its client nothing. One that does not wait is passed over."""
        request = self._waiting.get(ticket)
        if request is not None:
            self._take_out(ticket, request)
            self._close(request.account)

    def expire(self, now: float) -> list[T]:
        """Take out whose deadline has come, earliest first."""
        overdue: list[T] = []
        while self._waiting:
            ticket, request = next(iter(self._waiting.items()))
            if request.deadline > now:
                break
            self.leave(ticket)
            overdue.append(ticket)
        return overdue

    def displace(
        self, client: Hashable, size: int, most: int, most_bytes: float, *, heavy: bool = False
    ) -> tuple[T, ...]:
        """Make room for one more ticket of `client`, of `size` bytes, where `most` tickets and `most_bytes` may wait.

        Takes out the newest tickets of who holds most of what is short. Empty if that is not to be done: `client`
        would then hold more than is left to the other, which would only bring the other back to displace it in turn.
        But a heavy client gives way to one that is not `heavy`, whatever they hold.
        """
        excess = self.size + size - most_bytes
        ranking = self._by_count if excess <= 0 else self._by_size
        if not ranking:
            return ()
        biggest = ranking.first()
        own = self._accounts.get(client)
        if biggest.heavy and not heavy:
            fair = excess <= biggest.size
        elif excess > 0:
            fair = (own.size if own else 0) + size <= biggest.size - excess
        else:
            fair = (len(own.waiting) if own else 0) + 1 <= len(biggest.waiting) - 1
        if not fair or biggest is own:
            return ()
        displaced: list[T] = []
        while len(self._waiting) >= most or self.size + size > most_bytes:
            newest = next(reversed(biggest.waiting))
            self.leave(newest)
            displaced.append(newest)
        return tuple(displaced)

    # who runs

    @property
    def light(self) -> bool:
        """Whether a client waits that is not heavy."""
        return len(self._light) > 0

    def start(self, *, light: bool = False) -> T:
        """Take out the ticket that is next, which runs from now on; `light` passes heavy clients over.

        Raises IndexError where nobody waits.
        """
        account = self._first(light=light)
        ticket, request = next(iter(account.waiting.items()))
        self._last = account.served
        self._take_out(ticket, request)
        self._run(ticket, request)
        return ticket

    def count(self, ticket: T, client: Hashable, *, weight: float, estimate: float, used: float) -> None:
        """Count a ticket that runs already, started while nobody waited; what it has used until now is free.

        To be called before the first one joins. Nobody was there to go first, so its client is not ahead of anyone:
        the floor rises to it.
        """
        account = self._open(client)
        self._last = max(self._last, account.served)
        request = _Request(account, weight, max(estimate - used, 0.0) / weight, size=0, deadline=0.0)
        request.free = used / weight
        self._run(ticket, request)

    def charge(self, ticket: T, amount: float) -> None:
        """Add service that a running ticket received; one that does not run is passed over."""
        request = self._running.get(ticket)
        if request is not None:
            self._use(request, amount / request.weight)
            self._rank(request.account)

    def settle(self, ticket: T, total: float) -> None:
        """Replace a running ticket's estimate by the service it used in all. What was charged before is part of it."""
        request = self._running.get(ticket)
        if request is not None:
            self._use(request, max(total / request.weight - request.free - request.used, 0.0))
            request.account.held -= request.held
            request.held = 0.0
            self._rank(request.account)

    def end(self, ticket: T) -> None:
        """End a ticket that runs (KeyError if it does not).

        Unless it was settled, its estimate was used: what is unknown is never refunded.
        """
        request = self._running.pop(ticket)
        account = request.account
        self._use(request, request.held)
        self._mean += _NEWEST * (request.used + request.free - self._mean)
        account.running -= 1
        if not account.running:
            account.held = 0.0
        self._rank(account)
        self._close(account)

    # accounts

    def _floor(self) -> float:
        """The service that a newcomer is taken to have had: the least among those who wait and who was started last.

        It never falls. Without the one started last, a client whose only waiting request was just started would come
        back as a newcomer, and be lifted to the level of others that have had more.
        """
        return min(self._last, self._by_service.first().served) if self._by_service else self._last

    def _open(self, client: Hashable) -> _Account[T]:
        """Find the account of a client; one that waits for nothing is lifted to the floor."""
        account = self._accounts.get(client)
        if account is None:
            account = _Account(client, max(self._gone.pop(client, 0.0), self._floor()))
            self._accounts[client] = account
        elif not account.waiting:
            account.served = max(account.served, self._floor())
        return account

    def _close(self, account: _Account[T]) -> None:
        """Forget a client that neither waits nor runs, unless it would gain by that."""
        if account.waiting or account.running:
            return
        del self._accounts[account.client]
        if account.served > self._floor():
            self._gone[account.client] = account.served
            if len(self._gone) > REMEMBERED:
                self._gone.popitem(last=False)

    def _first(self, *, light: bool) -> _Account[T]:
        """Find who is next: the lowest counter, but for the light clients' credit."""
        if light:
            return self._light.first()
        first = self._by_counter.first()
        if not first.heavy or not self._light:
            return first
        ahead = self._light.first()
        credit = CREDIT * self._mean
        return ahead if ahead.served + ahead.held <= first.served + first.held + credit else first

    def _run(self, ticket: T, request: _Request[T]) -> None:
        account = request.account
        self._running[ticket] = request
        account.running += 1
        account.held += request.held
        self._rank(account)

    def _use(self, request: _Request[T], amount: float) -> None:
        account = request.account
        held = min(request.held, amount)
        request.held -= held
        request.used += amount
        account.held -= held
        account.served += amount

    def _take_out(self, ticket: T, request: _Request[T]) -> None:
        account = request.account
        del self._waiting[ticket], account.waiting[ticket]
        self.size -= request.size
        account.size -= request.size
        if account.waiting:
            self._measure(account)
        else:
            for ranking in (self._by_counter, self._light, self._by_service, self._by_count, self._by_size):
                ranking.drop(account)

    def _rank(self, account: _Account[T]) -> None:
        """Put a client that waits where its counter belongs now: behind those who have as much."""
        if account.waiting:
            counter = account.served + account.held
            self._by_counter.put(account, counter)
            if not account.heavy:
                self._light.put(account, counter)
            self._by_service.put(account, account.served)

    def _measure(self, account: _Account[T]) -> None:
        self._by_count.put(account, -len(account.waiting))
        self._by_size.put(account, -account.size)
