"""Where counts live. A store makes one decision over all limits at once."""

from collections.abc import Sequence
from typing import Any, Protocol

from corral.engine.decision import Decision, PartitionKey, Reservation, Standing

Binding = Any
"""A client, prepared for one store: what `bind` returned. Opaque to everybody else; good for the store's lifetime."""


class Store(Protocol):
    """Counts for a fixed tuple of limits. `now` is in seconds, from any clock that does not run backwards for long."""

    def bind(self, keys: Sequence[PartitionKey | None]) -> Binding:
        """Prepare to count for a client. `keys` stand in the limits' order; None is a limit that does not apply."""
        ...

    def take(self, client: Binding, now: float, cost: int = 1) -> Decision:
        """Charge every limit that applies to the client, or none."""
        ...

    def give_back(self, reservation: Reservation, now: float) -> None:
        """Undo what `take` charged, at most once; what time has returned already is not returned twice."""
        ...

    def peek(self, client: Binding, now: float) -> tuple[Standing, ...]:
        """Tell how each limit that applies stands, charging nothing."""
        ...
