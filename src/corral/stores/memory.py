"""Counts in this process: exact, and gone with it."""

# ruff: noqa: SLF001  # who takes over reads what its predecessor, of the same class, keeps

from collections.abc import Iterable, Sequence

from corral.engine.algorithm import SECOND, Algorithm
from corral.engine.calendar import Calendar
from corral.engine.clients import Clients, is_own
from corral.engine.decision import Admit, Charge, Decision, Deny, Hold, Part, PartitionKey, Reservation, Standing
from corral.engine.limit import Limit
from corral.engine.measures import TOKEN_MEASURES, Costs
from corral.stores import Binding, Spent
from corral.stores.succession import Move

_new = tuple.__new__
"""Builds a named tuple in 0.1 µs; calling its class takes 0.35 µs."""


class MemoryStore:
    """Keeps at most `capacity` clients for each limit; `seed` makes the sharing of overflow cells unpredictable."""

    def __init__(self, limits: Sequence[Limit], *, capacity: int = 100_000, seed: bytes = b"corral") -> None:
        self._limits = tuple(limits)
        self._clients = tuple(Clients(limit.algorithm, capacity, seed) for limit in limits)
        self._rows = [
            (
                index,
                limit.algorithm.ask,
                clients,
                limit.name,
                limit.algorithm.amount,
                limit.algorithm.window,
                limit.shadow,
            )
            for index, (limit, clients) in enumerate(zip(self._limits, self._clients, strict=True))
        ]
        self._token_rows: list[tuple[Algorithm, int, dict[PartitionKey, int]]] = [
            (limit.algorithm, limit.measure, {}) for limit in limits
        ]
        """Of each limit its algorithm, what it measures, and what running requests hold: bounded by their number."""
        self._calendars = tuple(limit.algorithm for limit in limits if isinstance(limit.algorithm, Calendar))
        self._changed: tuple[set[PartitionKey] | None, ...] = tuple(
            set() if limit.algorithm.keeps else None for limit in limits
        )
        """Whose budgets have changed since they were last told; None where a limit's counts are not kept."""
        self._latest = 0

    def __len__(self) -> int:
        return sum(len(clients) for clients in self._clients)

    @property
    def overflowed(self) -> int:
        """How many requests were counted in a shared cell, for want of room for an entry of their own."""
        return sum(clients.overflowed for clients in self._clients)

    @property
    def held(self) -> int:
        """How many clients hold something of a limit, each limit counted apart."""
        return sum(len(held) for _, _, held in self._token_rows)

    def held_tokens(self) -> dict[str, int]:
        """Sum up what running requests hold of each limit that counts tokens, in its unit, by the limit's name.

        What clients hold that share a cell for want of room counts twice.
        """
        rows = zip(self._limits, self._token_rows, strict=True)
        return {limit.name: sum(held.values()) for limit, (_, measure, held) in rows if measure >= 0}

    def counted(self) -> dict[str, list[PartitionKey]]:
        """List the clients that each limit keeps a count for, or of which it holds something, by the limit's name.

        Clients that share a cell for want of room are left out. Takes 10 ms for a million.
        """
        listed: dict[str, list[PartitionKey]] = {}
        for limit, clients, (_, _, held) in zip(self._limits, self._clients, self._token_rows, strict=True):
            own = clients.keys()
            listed[limit.name] = own if not held else list(dict.fromkeys([*own, *filter(is_own, held)]))
        return listed

    def standing(self, limit: str, key: PartitionKey, now: float) -> Standing:
        """Tell how the limit of that name stands for a client, charging nothing."""
        index = next(place for place, known in enumerate(self._limits) if known.name == limit)
        return self.peek(((key, *self._rows[index]),), now)[0]

    def adopt(self, before: "MemoryStore", now: float) -> tuple[Move, ...]:
        """Go on with the counts of `before`, which is asked no more; returns where each of its limits went.

        A limit goes on where it means the same, at most with another amount or burst (`Limit.goes_on`). What was used
        of it stays used, and what running requests hold stays held. All other limits begin anew.
        """
        at = self._latest = before._at(now)
        moves: list[Move] = []
        for old, limit in enumerate(before._limits):
            index = next((place for place, own in enumerate(self._limits) if own.goes_on(limit)), -1)
            shift = 0
            if index >= 0:
                shift = self._clients[index].take_over(before._clients[old], at)
                self._token_rows[index][2].update(before._token_rows[old][2])
            moves.append(Move(index, shift))
        return tuple(moves)

    def bind(self, keys: Sequence[PartitionKey | None]) -> Binding:
        """Prepare to count for a client; see `Store.bind`."""
        return tuple((key, *row) for key, row in zip(keys, self._rows, strict=True) if key is not None)

    def take(self, client: Binding, now: float, cost: int = 1) -> Decision:  # noqa: PLR0912  # a call costs 0.1 µs
        """Charge every limit, or none; see `Store.take`. A clock that runs backwards stands still here."""
        at = int(now * SECOND)
        if at < self._latest:
            at = self._latest
        else:
            self._latest = at
        charges: list[Charge] = []
        violated: tuple[Standing, ...] | None = None
        shadowed: tuple[Standing, ...] = ()
        least = 2.0
        tightest = None
        for key, index, ask, clients, name, amount, window, shadow in client:
            owner, state = key, clients.young.get(key)
            if state is None or at >= clients.rotate_at:
                owner, state = clients.find(key, at)
            after, remaining, wait = ask(state, at, cost)
            if after is None:
                standing = _new(Standing, (name, amount, window, 0, wait / SECOND))
                if shadow:
                    shadowed = (*shadowed, standing)
                else:
                    violated = (standing,) if violated is None else (*violated, standing)
            elif violated is None:
                charges.append(_new(Charge, (index, owner, after, clients.returned(owner))))
                if remaining / amount < least and not shadow:
                    least = remaining / amount
                    tightest = (name, amount, window, remaining, wait / SECOND)
        if violated is not None:
            wait = violated[0].reset if len(violated) == 1 else max(standing.reset for standing in violated)
            return _new(Deny, (violated, wait))
        for index, owner, after, _ in charges:
            clients = self._clients[index]
            if owner in clients.young:
                clients.young[owner] = after
            else:
                clients.put(owner, after)
        standing_left = None if tightest is None else _new(Standing, tightest)
        return _new(Admit, (_new(Reservation, (tuple(charges), cost)), standing_left, shadowed))

    def give_back(self, reservation: Reservation, now: float) -> None:
        """Undo a charge; see `Store.give_back`."""
        at = max(int(now * SECOND), self._latest)
        for index, owner, charged, returned in reservation.charges:
            clients = self._clients[index]
            state = clients.current(owner)
            if state is None:
                continue
            algorithm = self._limits[index].algorithm
            if algorithm.begins:
                clients.put(owner, algorithm.give_back(state, charged, at, reservation.cost))
                continue
            ends = charged - (clients.returned(owner) - returned)
            after = algorithm.give_back(state, ends, at, reservation.cost)
            clients.put(owner, after)
            if state != charged:
                clients.add_returned(owner, state - (at * algorithm.amount if after is None else after))

    def hold(self, client: Binding, now: float, costs: Costs, shadow_costs: Costs | None = None) -> Hold | Deny:
        """Hold of every limit, or of none; see `Store.hold`.

        Where a client shares a cell of strangers, what any of them holds counts for all, as what they used does.
        """
        at = self._at(now)
        parts: list[Part] = []
        violated: list[Standing] = []
        shadowed: tuple[Standing, ...] = ()
        least = least_other = 2.0
        tightest = tightest_other = None
        for key, index, _, clients, name, amount, window, shadow in client:
            algorithm, measure, held = self._token_rows[index]
            cost = costs[measure] if shadow_costs is None or not shadow else shadow_costs[measure]
            if not cost:
                continue
            owner, state = key, clients.young.get(key)
            if state is None or at >= clients.rotate_at:
                owner, state = clients.find(key, at)
            beside = held.get(key, 0)
            if owner != key:
                beside += held.get(owner, 0)
            fits, remaining, wait = algorithm.weigh(state, at, beside, cost)
            if not fits:
                standing = Standing(name, amount, window, remaining, wait / SECOND)
                if shadow:
                    shadowed = (*shadowed, standing)
                else:
                    violated.append(standing)
                continue
            parts.append(_new(Part, (index, key, owner, cost)))
            if shadow:
                continue
            share = remaining / amount
            if measure < TOKEN_MEASURES:
                if share < least:
                    least = share
                    tightest = (name, amount, window, remaining, wait / SECOND)
            elif (share := share if window else share + 1.0) < least_other:
                least_other = share
                tightest_other = (name, amount, window, remaining, wait / SECOND)
        if violated:
            return Deny(tuple(violated), max(standing.reset for standing in violated))
        self._keep_held(parts, at)
        return Hold(
            tuple(parts),
            None if tightest is None else _new(Standing, tightest),
            None if tightest_other is None else _new(Standing, tightest_other),
            shadowed,
        )

    def _keep_held(self, parts: list[Part], at: int) -> None:
        for index, key, owner, cost in parts:
            algorithm, _, held = self._token_rows[index]
            held[key] = held.get(key, 0) + cost
            if owner != key:
                held[owner] = held.get(owner, 0) + cost
            if algorithm.begins:
                self._clients[index].put(owner, algorithm.charge(self._clients[index].current(owner), at, 0))
            changed = self._changed[index]
            if changed is not None:
                changed.add(key)

    def adjust(self, hold: Hold, now: float, costs: Costs, shadow_costs: Costs | None = None) -> Deny | None:
        """Hold more or less for a request; see `Store.adjust`."""
        if not hold.open:
            return None
        at = self._at(now)
        before = list(hold.parts)
        self._let_go_of(before)
        parts: list[Part] = []
        violated: list[Standing] = []
        shadowed: list[Standing] = []
        tightest: Standing | None = None
        other: Standing | None = None
        for index, key, _, cost in before:
            algorithm, measure, held = self._token_rows[index]
            limit = self._limits[index]
            wanted = max(1, costs[measure] if shadow_costs is None or not limit.shadow else shadow_costs[measure])
            owner, state = self._clients[index].find(key, at)
            beside = held.get(key, 0)
            if owner != key:
                beside += held.get(owner, 0)
            fits, remaining, wait = algorithm.weigh(state, at, beside, wanted)
            standing = Standing(limit.name, algorithm.amount, algorithm.window, remaining, wait / SECOND)
            if not fits and wanted > cost:
                (shadowed if limit.shadow else violated).append(standing)
                continue
            parts.append(Part(index, key, owner, wanted))
            if limit.shadow:
                continue
            standing = standing if fits else standing._replace(remaining=0)
            if measure < TOKEN_MEASURES:
                tightest = _tighter(tightest, standing)
            else:
                other = _tighter(other, standing)
        self._keep_held(before if violated else parts, at)
        if violated:
            return Deny(tuple(violated), max(standing.reset for standing in violated))
        hold.parts, hold.tightest, hold.other = tuple(parts), tightest, other
        hold.shadowed = (*hold.shadowed, *shadowed)
        return None

    def _let_go_of(self, parts: list[Part]) -> None:
        for index, key, owner, cost in parts:
            _, _, held = self._token_rows[index]
            _let_go(held, key, cost)
            if owner != key:
                _let_go(held, owner, cost)

    def settle(self, hold: Hold, now: float, costs: Costs) -> None:
        """End a hold; see `Store.settle`."""
        if not hold.open:
            return
        hold.open = False
        at = self._at(now)
        for index, key, owner, cost in hold.parts:
            algorithm, measure, held = self._token_rows[index]
            _let_go(held, key, cost)
            if owner != key:
                _let_go(held, owner, cost)
            changed = self._changed[index]
            if changed is not None:
                changed.add(key)
            used = costs[measure]
            if used:
                clients = self._clients[index]
                payer, state = clients.find(key, at)
                clients.put(payer, algorithm.charge(state, at, used))

    def follow_wall(self, offset: float) -> None:
        """Take note of the time of day; see `Store.follow_wall`."""
        for calendar in self._calendars:
            calendar.offset = round(offset * SECOND)

    def changes(self, now: float) -> list[Spent]:
        """Tell what has changed of the budgets that must be kept, since this was last asked.

        What running requests hold is told as used: if this process dies, nobody will know what they used.
        """
        at = max(int(now * SECOND), self._latest)
        told = []
        for index, (limit, changed) in enumerate(zip(self._limits, self._changed, strict=True)):
            algorithm = limit.algorithm
            if not changed or not isinstance(algorithm, Calendar):
                continue
            _, _, held = self._token_rows[index]
            number = algorithm.number(at)
            for key in changed:
                used = algorithm.used(self._clients[index].current(key), at) + held.get(key, 0)
                told.append(Spent(limit.name, key, algorithm.period, number, used))
            changed.clear()
        return told

    def tell_all(self) -> None:
        """Have `changes` tell of everybody next time: it is another file that is to know them."""
        for clients, changed, (_, _, held) in zip(self._clients, self._changed, self._token_rows, strict=True):
            if changed is not None:
                changed.update(clients.keys())
                changed.update(filter(is_own, held))

    def restore(self, spent: Iterable[Spent], now: float) -> None:
        """Take up what was told by `changes` before a restart. What no limit counts any more is passed over."""
        at = self._at(now)
        by_name = {limit.name: index for index, limit in enumerate(self._limits)}
        for name, key, span, number, used in spent:
            index = by_name.get(name, -1)
            algorithm = self._limits[index].algorithm if index >= 0 else None
            if isinstance(algorithm, Calendar) and algorithm.period == span and used > 0:
                owner, state = self._clients[index].find(key, at)
                before = algorithm.used(state, at)
                packed = algorithm.pack(number, used)
                if algorithm.used(packed, at) > before:
                    self._clients[index].put(owner, packed)

    def _at(self, now: float) -> int:
        """Read the clock, which stands still here where it runs backwards."""
        at = int(now * SECOND)
        if at < self._latest:
            return self._latest
        self._latest = at
        return at

    def peek(self, client: Binding, now: float) -> tuple[Standing, ...]:
        """Tell how each limit that applies stands; see `Store.peek`."""
        at = max(int(now * SECOND), self._latest)
        standings = []
        for key, index, ask, clients, name, amount, window, _ in client:
            algorithm = self._limits[index].algorithm
            owner, state = clients.find(key, at)
            _, measure, held = self._token_rows[index]
            if measure >= 0:
                _, remaining, wait = algorithm.weigh(state, at, held.get(owner, 0), 0)
                standings.append(Standing(name, amount, window, remaining, wait / SECOND))
                continue
            after, remaining, wait = ask(state, at, 1)
            if after is not None:
                remaining += 1
                wait = 0 if state is None or not algorithm.is_live(state, at) else wait
            standings.append(Standing(name, amount, window, remaining, wait / SECOND))
        return tuple(standings)


def _tighter(one: Standing | None, other: Standing) -> Standing:
    if one is not None and bool(one.window) != bool(other.window):
        return one if one.window else other
    return one if one is not None and one.remaining * other.quota <= other.remaining * one.quota else other


def _let_go(held: dict[PartitionKey, int], owner: PartitionKey, cost: int) -> None:
    left = held[owner] - cost
    if left:
        held[owner] = left
    else:
        del held[owner]
