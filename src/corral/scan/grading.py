"""From findings to a grade, by documented weights and caps.

A hundred points, less those of each vulnerable check; then the caps, in the manner of TLS graders: what makes all else
pointless bounds the grade whatever the points say. Inconclusive costs nothing and earns nothing: A+ takes a verdict
on every check, and a scan that could tell less than two thirds of them gives no better than C. Where one of the checks
that matter most could not be told there is no grade at all, unless it is F already.
"""

from collections.abc import Sequence

from corral.scan.finding import Finding, Severity, Verdict

WEIGHTS = {
    Severity.CRITICAL: 40,
    Severity.HIGH: 25,
    Severity.MEDIUM: 10,
    Severity.LOW: 4,
    Severity.INFO: 0,
}
"""Points that a vulnerable check costs."""

GRADES = (("A+", 97), ("A", 90), ("B", 80), ("C", 65), ("D", 45), ("F", 0))
"""Each grade, and the fewest points for it."""

CAPS = {"rate.burst": "D", "tokens.unbounded": "C"}
"""The best grade where that check is vulnerable. `auth.missing` caps at F, on any address but a loopback one."""

CRUCIAL = ("auth.missing", "rate.burst", "tokens.unbounded")
"""Checks without whose verdict a grade would say nothing."""

_ORDER = [grade for grade, _ in GRADES]


def score(findings: Sequence[Finding]) -> int:
    """Count the points, 0 to 100."""
    lost = sum(WEIGHTS[finding.severity] for finding in findings if finding.verdict is Verdict.VULNERABLE)
    return max(0, 100 - lost)


def grade(findings: Sequence[Finding], *, loopback: bool) -> str | None:
    """Give the grade, A+ to F; None where what matters most could not be told."""
    points = score(findings)
    result = next(name for name, least in GRADES if points >= least)
    vulnerable = {finding.check for finding in findings if finding.verdict is Verdict.VULNERABLE}
    caps = [CAPS[check] for check in vulnerable if check in CAPS]
    if "auth.missing" in vulnerable and not loopback:
        caps.append("F")
    open_questions = sum(finding.verdict is Verdict.INCONCLUSIVE for finding in findings)
    if open_questions:
        caps.append("A")
    if 3 * open_questions > len(findings):
        caps.append("C")
    given = max([result, *caps], key=_ORDER.index)
    return None if untold(findings) and given != _ORDER[-1] else given


def untold(findings: Sequence[Finding]) -> list[str]:
    """List the crucial checks that could not be told."""
    unclear = [finding.check for finding in findings if finding.verdict is Verdict.INCONCLUSIVE]
    return [check for check in CRUCIAL if check in unclear]
