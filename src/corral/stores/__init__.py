"""Where counts live. A store makes one decision over all limits at once."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from corral.engine.decision import Decision, Deny, Hold, PartitionKey, Reservation, Standing
from corral.engine.measures import Costs


class Spent(NamedTuple):
    """What was used of a limit that a restart must not forgive: in which period of the calendar, and how much."""

    limit: str
    key: PartitionKey
    span: str
    number: int
    used: int


Binding = Any
"""A client, prepared for one store: what `bind` returned. Opaque to everybody else; good for the store's lifetime."""


class Store(Protocol):
    """Counts for a fixed tuple of limits. `now` is in seconds, from any clock that does not run backwards for long.

    A limit in shadow has no say: it is charged where it agrees and those in force do too, and where it alone would
    refuse it is not charged, as if it had, and told as `shadowed`.
    """

    def bind(self, keys: Sequence[PartitionKey | None]) -> Binding:
        """Prepare to count for a client. `keys` stand in the limits' order; None is a limit that does not apply."""
        ...

    def take(self, client: Binding, now: float, cost: int = 1) -> Decision:
        """Charge every limit that applies to the client the same `cost`, or none; those in shadow each for itself."""
        ...

    def hold(self, client: Binding, now: float, costs: Costs, shadow_costs: Costs | None = None) -> Hold | Deny:
        """Hold what a request will use at most of every limit that applies, each by its measure, or of none.

        Of limits in shadow it holds `shadow_costs` where they differ: what it would hold if these were in force.
        What is held does not come back with time; it is ended by `settle`.
        """
        ...

    def adjust(self, hold: Hold, now: float, costs: Costs, shadow_costs: Costs | None = None) -> Deny | None:
        """Change what a request holds, in one step: now that more is known, it will use so much at most.

        Each limit that something is held of must have room for what is added, or nothing changes; where less is held
        than before nobody is asked. A limit of which nothing is held stays so, and a hold never shrinks to nothing: it
        keeps 1, so that what it uses is charged. A limit in shadow that has no room is told in `hold.shadowed`, and
        nothing is held of it any more. Nothing happens to a hold that has ended.
        """
        ...

    def settle(self, hold: Hold, now: float, costs: Costs) -> None:
        """End a hold: charge what was used, more or less than was held, and let the hold go. At most once."""
        ...

    def give_back(self, reservation: Reservation, now: float) -> None:
        """Undo what `take` charged, at most once; what time has returned already is not returned twice."""
        ...

    def follow_wall(self, offset: float) -> None:
        """Take note of how far the time since 1970 in UTC is ahead of `now`, in seconds: budgets go by the calendar."""
        ...

    def peek(self, client: Binding, now: float) -> tuple[Standing, ...]:
        """Tell how each limit that applies stands, charging nothing."""
        ...
