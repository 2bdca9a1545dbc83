"""What is sent: each probe a frozen value. Equal probes are run once, and serve many checks."""

from typing import Protocol

from corral.scan.observation import Observation
from corral.scan.wire import Wire


class Probe(Protocol):
    """Something to send. `phase` orders probes: what exhausts a quota comes last, so that it blinds nobody."""

    @property
    def phase(self) -> int:
        """0 looks, 1 asks, 2 loads, 3 exhausts."""
        ...

    @property
    def inside(self) -> bool:
        """Whether it is about what those meet who are let in: where a stranger is not, it need not be sent."""
        ...

    async def send(self, wire: Wire) -> list[Observation]:
        """Send it, and return what was seen, in order; fewer than wanted where the budget ends."""
        ...
