"""Places at the server: so many run at once, so many wait in a bounded queue, and nobody waits for ever.

Pure: the caller tells the time, in seconds, and starts whoever a call returns.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from corral.engine.fairqueue import FairQueue
from corral.engine.headroom import Headroom

T = TypeVar("T", bound=Hashable)

_WEIGHT = 0.1
"""The share of the newest service in the mean service time."""


@dataclass(frozen=True, slots=True)
class Running:
    """The request has a place."""


class Waiting(Generic[T]):
    """The request stands in the queue until `deadline`, in seconds.

    `displaced` had to leave the queue for it, newest first: they have ended, and the caller refuses them. No dataclass:
    mypyc cannot compile a generic one.
    """

    __slots__ = ("deadline", "displaced")

    def __init__(self, deadline: float, displaced: tuple[T, ...] = ()) -> None:
        self.deadline = deadline
        self.displaced = displaced


@dataclass(frozen=True, slots=True)
class Refused:
    """The queue is full; `retry_after` seconds until there should be a place, by the service measured so far."""

    retry_after: float


_RUNNING = Running()


class Admission(Generic[T]):
    """Hands out `max_running` places; who waits is served by virtual token counter (see `fairqueue`).

    `max_waiting` may wait, of `max_waiting_bytes` together, `max_wait` seconds each. When the queue is full, a client
    that holds little of it displaces the newest tickets of the one that holds most: no flood keeps others out.

    A place is only free while somebody waits if it is kept from heavy clients (see `headroom`), and those are all who
    wait; one place, at least, is theirs too. Whoever was given a place, or stands in the queue, must be ended by
    `abandon` exactly once, except those that `expire` returns and those that were displaced.

    While nobody waits there is nothing to share, so nothing is counted: entering and leaving take 0.35 µs together,
    much as without any fairness. Those that run are counted as soon as somebody has to wait, and loads are followed
    from then on until all of them are forgotten.
    """

    def __init__(
        self, max_running: int, max_waiting: int, max_wait: float, max_waiting_bytes: float = math.inf
    ) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._max_wait = max_wait
        self._max_waiting_bytes = max_waiting_bytes
        self._room = max_running
        """How many may run uncounted: the places less those that are counted; below 0 after there were more places."""
        self._uncounted: dict[T, tuple[float, Hashable, float, float, float]] = {}
        """Since when it runs, its client, weight and estimate, and the service it has used."""
        self._counted: dict[T, float] = {}
        """Since when it runs."""
        self._queue: FairQueue[T] = FairQueue()
        self._headroom: Headroom[T] = Headroom(max_running)
        self._watched = False
        """Whether the headroom counts who is inside: since somebody had to wait."""
        self._service = 1.0
        self._last_deadline = -math.inf

    @property
    def running(self) -> int:
        """How many have a place."""
        return len(self._uncounted) + len(self._counted)

    @property
    def waiting(self) -> int:
        """How many stand in the queue."""
        return len(self._queue)

    def waits(self, ticket: T) -> bool:
        """Tell whether a ticket stands in the queue."""
        return ticket in self._queue

    @property
    def waiting_bytes(self) -> int:
        """What stands in the queue, in bytes."""
        return self._queue.size

    @property
    def known_clients(self) -> int:
        """How many clients are remembered."""
        return self._queue.known

    def enter(
        self,
        ticket: T,
        now: float,
        *,
        client: Hashable,
        weight: float = 1.0,
        estimate: float = 1.0,
        size_bytes: int = 0,
    ) -> Running | Waiting[T] | Refused:
        """Ask for a place for a ticket that is new.

        `client` is who is counted; one of twice the `weight` (> 0) gets twice the service. `estimate` (≥ 0, see
        `fairqueue.service`) is what the request will use; it counts from its start until it is settled.
        """
        if not self._watched and len(self._uncounted) < self._room:
            self._uncounted[ticket] = (now, client, weight, estimate, 0.0)
            return _RUNNING
        queue, headroom = self._queue, self._headroom
        heavy = headroom.heavy(client)
        if len(self._uncounted) < self._room and (not heavy or headroom.heavy_may_start):
            headroom.enter(ticket, client, weight, now)
            if queue:
                # Those who wait are heavy, and leave this place to others.
                queue.join(ticket, client, weight=weight, estimate=estimate, size=0, deadline=now, heavy=heavy)
                self._start(now, light=True)
            else:
                self._uncounted[ticket] = (now, client, weight, estimate, 0.0)
                headroom.start(ticket)
            return _RUNNING
        displaced: tuple[T, ...] = ()
        if len(queue) >= self._max_waiting or queue.size + size_bytes > self._max_waiting_bytes:
            if len(queue) > self._max_waiting or queue.size > self._max_waiting_bytes:
                return Refused(self.expected_wait())
            displaced = queue.displace(client, size_bytes, self._max_waiting, self._max_waiting_bytes, heavy=heavy)
            if not displaced:
                return Refused(self.expected_wait())
            for gone in displaced:
                headroom.leave(gone, now)
        if self._uncounted or not self._watched:
            self._count(now)
        # Not before the one that joined last: only a bound that was lowered meanwhile could make it so.
        deadline = now + self._max_wait
        if queue and deadline < self._last_deadline:
            deadline = self._last_deadline
        self._last_deadline = deadline
        queue.join(ticket, client, weight=weight, estimate=estimate, size=size_bytes, deadline=deadline, heavy=heavy)
        headroom.enter(ticket, client, weight, now)
        return Waiting(deadline, displaced)

    def charge(self, ticket: T, service: float) -> None:
        """Add service (≥ 0, see `fairqueue.service`) that a running ticket has received. Others are passed over."""
        uncounted = self._uncounted.get(ticket)
        if uncounted is None:
            self._queue.charge(ticket, service)
        else:
            since, client, weight, estimate, used = uncounted
            self._uncounted[ticket] = (since, client, weight, estimate, used + service)

    def settle(self, ticket: T, service: float) -> None:
        """Replace the estimate of a running ticket by the service it used in all, before it is abandoned.

        What was charged is part of that. A ticket that is not settled is taken to have used its estimate.
        """
        uncounted = self._uncounted.get(ticket)
        if uncounted is None:
            self._queue.settle(ticket, service)
        else:
            self._uncounted[ticket] = (*uncounted[:3], service, service)

    def abandon(self, ticket: T, now: float) -> list[T]:
        """End a ticket, running or waiting; one that is neither is passed over. Returns who runs now in its stead."""
        if self._watched:
            self._headroom.leave(ticket, now)
        uncounted = self._uncounted.pop(ticket, None)
        if uncounted is not None:
            self._service += _WEIGHT * (now - uncounted[0] - self._service)
            return []
        since = self._counted.pop(ticket, None)
        if since is None:
            self._queue.leave(ticket)
            return []
        self._service += _WEIGHT * (now - since - self._service)
        self._queue.end(ticket)
        self._room += 1
        return self.follow(now)

    def follow(self, now: float) -> list[T]:
        """Start who may run now. To be called a few times a second: what is kept depends on the time, too."""
        if not self._watched:
            return []
        queue, headroom = self._queue, self._headroom
        for client in headroom.divide(now):
            queue.file(client, heavy=headroom.heavy(client))
        following: list[T] = []
        while queue and len(self._uncounted) < self._room and (queue.light or headroom.heavy_may_start):
            following.append(self._start(now, light=not headroom.heavy_may_start))
        if not headroom.known and not queue:
            self._watched = False
        return following

    def resize(
        self, max_running: int, max_waiting: int, max_wait: float, max_waiting_bytes: float, now: float
    ) -> list[T]:
        """Take other bounds; returns who runs now because there are more places.

        Nobody is sent away: who runs or waits beyond a lowered bound goes on, and nobody follows until there is room.
        """
        self._max_waiting = max_waiting
        self._max_wait = max_wait
        self._max_waiting_bytes = max_waiting_bytes
        return self.set_places(max_running, now)

    def expire(self, now: float) -> list[T]:
        """Take out of the queue who has waited too long."""
        if not self._queue:
            return []
        overdue = self._queue.expire(now)
        for ticket in overdue:
            self._headroom.leave(ticket, now)
        return overdue

    def set_places(self, max_running: int, now: float) -> list[T]:
        """Have more places, or fewer (≥ 0); those that run stay. Returns who runs now."""
        self._room += max_running - self._max_running
        self._max_running = max_running
        self._headroom.resize(max_running)
        return self.follow(now)

    def expected_wait(self) -> float:
        """Predict when there will be a place, in seconds: the queue's length times the mean service, ≥ 1."""
        rounds = (len(self._queue) + 1) / max(1, self._max_running - self._headroom.kept)
        return float(min(max(1, math.ceil(rounds * self._service)), max(1, math.ceil(2 * self._max_wait))))

    def _start(self, now: float, *, light: bool) -> T:
        following = self._queue.start(light=light)
        self._room -= 1
        self._counted[following] = now
        self._headroom.start(following)
        return following

    def _count(self, now: float) -> None:
        """Count those that run, because somebody has to wait."""
        for ticket, (since, client, weight, estimate, used) in self._uncounted.items():
            self._queue.count(ticket, client, weight=weight, estimate=estimate, used=used)
            self._counted[ticket] = since
            if not self._watched:
                self._headroom.enter(ticket, client, weight, now)
                self._headroom.start(ticket)
        self._watched = True
        self._room -= len(self._uncounted)
        self._uncounted.clear()
