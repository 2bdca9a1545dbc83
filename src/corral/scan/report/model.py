"""A finished scan."""

from dataclasses import dataclass

from corral.scan.finding import Finding, Severity, Verdict


@dataclass(frozen=True, slots=True)
class Spent:
    """What the scan cost: requests sent, tokens asked for and generated, seconds."""

    requests: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a scan.

    `vantage` is "with a key" or "without a key"; `grade` and `score` are None where too little could be told, and
    `no_grade` says why, or is ""; `stopped` says why the scan ended early, `throttled` that it was refused for the
    number of its requests, or they are "".
    """

    target: str
    server: str
    server_evidence: tuple[str, ...]
    vantage: str
    grade: str | None
    score: int | None
    no_grade: str
    findings: tuple[Finding, ...]
    not_tested: tuple[str, ...]
    stopped: str
    throttled: str
    spent: Spent

    def worst(self) -> Severity | None:
        """Give the severity of the worst vulnerability, None where there is none."""
        found = [finding.severity for finding in self.findings if finding.verdict is Verdict.VULNERABLE]
        return max(found, key=lambda severity: severity.rank) if found else None
