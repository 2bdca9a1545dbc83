"""The report as JSON; its shape is versioned by `schema`."""

from typing import Any

from corral.scan.checks import CHECKS
from corral.scan.report.fix import fix_command
from corral.scan.report.model import Report

SCHEMA = 1


def as_json(report: Report) -> dict[str, Any]:
    """Turn the report into plain values."""
    checks = {check.id: check for check in CHECKS}
    return {
        "schema": SCHEMA,
        "target": report.target,
        "error": None,
        "server": report.server,
        "server_evidence": list(report.server_evidence),
        "vantage": report.vantage,
        "grade": report.grade,
        "score": report.score,
        "no_grade": report.no_grade or None,
        "stopped": report.stopped or None,
        "throttled": report.throttled or None,
        "not_tested": list(report.not_tested),
        "checks": [
            {
                "id": finding.check,
                "title": checks[finding.check].title,
                "verdict": finding.verdict.value,
                "severity": finding.severity.value,
                "evidence": list(finding.evidence),
                "why": checks[finding.check].why,
                "fix": {
                    "corral": fix_command(checks[finding.check], report.target),
                    "means": checks[finding.check].fix_means or None,
                    "other": checks[finding.check].fix_other,
                },
                "refs": list(checks[finding.check].refs),
            }
            for finding in report.findings
        ],
        "spent": {
            "requests": report.spent.requests,
            "tokens": report.spent.tokens,
            "seconds": round(report.spent.seconds, 2),
        },
    }
