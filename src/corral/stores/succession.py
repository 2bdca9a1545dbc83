"""What requests took of a store that another has succeeded: it counts in the successor."""

# ruff: noqa: SLF001  # one takes over the way of another, of the same class

from collections.abc import Callable, Sequence
from typing import NamedTuple

from corral.engine.decision import Admit, Charge, Decision, Deny, Hold, Part, PartitionKey, Reservation, Standing
from corral.engine.measures import Costs
from corral.stores import Binding, Store


class Move(NamedTuple):
    """Where a limit went: its place in the successor (-1: it is gone), and what is added to its states there."""

    place: int
    shift: int


class Succeeded:
    """Stands in for a store whose counts its successor has taken over (`MemoryStore.adopt`).

    Requests that had begun by then go on with it: their bindings, holds and reservations speak of the limits as the
    old store had them. A limit that is gone counts nothing any more, and one that is new does not count them.

    `successor` answers the store that counts now: a successor may be succeeded too.
    """

    def __init__(self, successor: Callable[[], Store], moves: Sequence[Move], size: int) -> None:
        """Stand in for a store of `len(moves)` limits; the successor has `size`."""
        self._successor = successor
        self._moves = tuple(moves)
        self._size = size
        self._back = {move.place: old for old, move in enumerate(moves) if move.place >= 0}

    def _now(self) -> Store:
        """Find the store that counts now. Where that was reached through others, the way there is taken as one step.

        Else a request would go through all reloads that it has seen, and fail after a thousand.
        """
        store = self._successor()
        while isinstance(store, Succeeded):
            on = store._moves
            self._moves = tuple(
                Move(on[move.place].place, move.shift + on[move.place].shift) if move.place >= 0 else move
                for move in self._moves
            )
            self._back = {move.place: old for old, move in enumerate(self._moves) if move.place >= 0}
            self._size = store._size
            self._successor = store._successor
            store = self._successor()
        return store

    def bind(self, keys: Sequence[PartitionKey | None]) -> Binding:
        """Prepare to count for a client by the old limits: a binding is simply who each of them counts."""
        return tuple((key, index) for index, key in enumerate(keys) if key is not None)

    def take(self, client: Binding, now: float, cost: int = 1) -> Decision:
        """Charge every limit that went on, or none; see `Store.take`."""
        store = self._now()
        outcome = store.take(self._bound(client), now, cost)
        if isinstance(outcome, Deny):
            return outcome
        charges = []
        for charge in outcome.reservation.charges:
            old = self._back[charge.limit]
            charges.append(charge._replace(limit=old, state=charge.state - self._moves[old].shift))
        return Admit(Reservation(tuple(charges), cost), outcome.tightest, outcome.shadowed)

    def hold(self, client: Binding, now: float, costs: Costs, shadow_costs: Costs | None = None) -> Hold | Deny:
        """Hold of every limit that went on, or of none; see `Store.hold`."""
        store = self._now()
        outcome = store.hold(self._bound(client), now, costs, shadow_costs)
        if isinstance(outcome, Deny):
            return outcome
        return Hold(
            tuple(part._replace(limit=self._back[part.limit]) for part in outcome.parts),
            outcome.tightest,
            outcome.other,
            outcome.shadowed,
        )

    def adjust(self, hold: Hold, now: float, costs: Costs, shadow_costs: Costs | None = None) -> Deny | None:
        """Change what a request holds of the limits that went on; see `Store.adjust`."""
        if not hold.open:
            return None
        store = self._now()
        moved = Hold(self._moved(hold), hold.tightest, hold.other, hold.shadowed)
        denial = store.adjust(moved, now, costs, shadow_costs)
        if denial is None:
            hold.parts = tuple(part._replace(limit=self._back[part.limit]) for part in moved.parts)
            hold.tightest, hold.other, hold.shadowed = moved.tightest, moved.other, moved.shadowed
        return denial

    def settle(self, hold: Hold, now: float, costs: Costs) -> None:
        """End a hold, whether it was made before the succession or after; see `Store.settle`."""
        if not hold.open:
            return
        hold.open = False
        store = self._now()
        store.settle(Hold(self._moved(hold), hold.tightest), now, costs)

    def _moved(self, hold: Hold) -> tuple[Part, ...]:
        """Say what is held as the successor has it: of limits that are gone, nothing."""
        return tuple(
            Part(self._moves[part.limit].place, part.key, part.owner, part.cost)
            for part in hold.parts
            if self._moves[part.limit].place >= 0
        )

    def give_back(self, reservation: Reservation, now: float) -> None:
        """Undo a charge that was made before the succession; see `Store.give_back`."""
        store = self._now()
        charges = tuple(
            Charge(move.place, charge.key, charge.state + move.shift, charge.returned)
            for charge in reservation.charges
            if (move := self._moves[charge.limit]).place >= 0
        )
        store.give_back(Reservation(charges, reservation.cost), now)

    def follow_wall(self, offset: float) -> None:
        """Take note of the time of day; see `Store.follow_wall`."""
        self._now().follow_wall(offset)

    def peek(self, client: Binding, now: float) -> tuple[Standing, ...]:
        """Tell how each limit that went on stands; see `Store.peek`."""
        store = self._now()
        return store.peek(self._bound(client), now)

    def _bound(self, client: Binding) -> Binding:
        """Bind a client of the old store in the successor."""
        store = self._now()
        keys: list[PartitionKey | None] = [None] * self._size
        for row in client:
            index = self._moves[row[1]].place
            if index >= 0:
                keys[index] = row[0]
        return store.bind(keys)
