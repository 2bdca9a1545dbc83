"""What a check is: what it is about, the probe it needs, and a pure judgement of what was seen."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from corral.scan.finding import Finding, Severity, Verdict
from corral.scan.observation import Observation, Reply
from corral.scan.probes import Probe


class Check(ABC):
    """One check. Subclasses state what they are in class variables, and judge; they never touch the network."""

    id: ClassVar[str]
    title: ClassVar[str]
    severity: ClassVar[Severity]
    why: ClassVar[str]
    refs: ClassVar[tuple[str, ...]]
    fix_corral: ClassVar[str]
    """A command line that mends it; `{guard}` stands for a guard in front of the scanned server."""
    fix_means: ClassVar[str] = ""
    """What of that command mends it, where the command does not say so."""
    fix_other: ClassVar[str]
    probe: ClassVar[Probe]

    @abstractmethod
    def judge(self, seen: Sequence[Observation]) -> Finding:
        """Judge what the probe saw. Nothing seen is inconclusive."""

    def safe(self, *evidence: str) -> Finding:
        """Report that the endpoint holds."""
        return Finding(self.id, Verdict.SAFE, self.severity, evidence)

    def vulnerable(self, *evidence: str, severity: Severity | None = None) -> Finding:
        """Report that it does not."""
        return Finding(self.id, Verdict.VULNERABLE, severity or self.severity, evidence)

    def inconclusive(self, *evidence: str) -> Finding:
        """Report that it could not be told, and why."""
        return Finding(self.id, Verdict.INCONCLUSIVE, self.severity, evidence)


def shut_out(seen: Sequence[Observation]) -> bool:
    """Tell whether every request was turned away at the door, for want of a credential.

    Being refused for the number of requests shuts nobody out: who waits is let in.
    """
    return bool(seen) and all(observation.reply is Reply.AUTH for observation in seen)


def told(seen: Sequence[Observation]) -> list[str]:
    """Say each observation in a line."""
    return [observation.told() for observation in seen]


def answered(seen: Sequence[Observation]) -> list[Observation]:
    """Pick the observations that got any answer."""
    return [observation for observation in seen if observation.status is not None]
