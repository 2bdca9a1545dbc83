"""What a check reports."""

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What could be told. Nothing seen is INCONCLUSIVE, never SAFE."""

    SAFE = "safe"
    VULNERABLE = "vulnerable"
    INCONCLUSIVE = "inconclusive"


class Severity(Enum):
    """How much a vulnerability matters; ordered by `rank`."""

    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for info, up to 4 for critical."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """A check's result: the verdict, and what was sent and came back that it rests on."""

    check: str
    verdict: Verdict
    severity: Severity
    evidence: tuple[str, ...]
