"""Where counts live. A store makes one decision over all limits at once."""

from collections.abc import Sequence
from typing import Protocol

from corral.engine.decision import Decision, PartitionKey, Reservation, Standing


class Store(Protocol):
    """Counts for a fixed tuple of limits. `now` is in seconds, from any clock that does not run backwards for long."""

    def take(self, keys: Sequence[PartitionKey | None], now: float, cost: int = 1) -> Decision:
        """Charge every limit, or none. `keys` stand in the limits' order; None is a limit that does not apply."""
        ...

    def give_back(self, reservation: Reservation, now: float) -> None:
        """Undo what `take` charged, at most once; what time has returned already is not returned twice."""
        ...

    def peek(self, keys: Sequence[PartitionKey | None], now: float) -> tuple[Standing, ...]:
        """Tell how each limit that applies stands, charging nothing."""
        ...
