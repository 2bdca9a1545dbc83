"""How much happens in a second: from two looks at a guard's sums."""

from dataclasses import asdict, dataclass

from corral.top.admin_client import Snapshot


@dataclass(frozen=True, slots=True)
class Rates:
    """Each by the second: requests that ended after they were admitted, refusals, and tokens of answers that ended."""

    admitted: float
    refused: float
    tokens: float

    def as_json(self) -> dict[str, float]:
        """Spell them for JSON."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def rates(before: Snapshot | None, now: Snapshot) -> Rates | None:
    """Compare two looks; None where there is one alone, or where the guard was started anew in between."""
    if before is None or now.at <= before.at or now.status["uptime"] < before.status["uptime"]:
        return None
    span = now.at - before.at
    old, new = before.status["ended"], now.status["ended"]
    return Rates(
        (new["answered"] + new["failed"] - old["answered"] - old["failed"]) / span,
        (new["refused"] - old["refused"]) / span,
        (now.status["tokens"]["output"] - before.status["tokens"]["output"]) / span,
    )
