"""Runs the checks: equal probes once, those of a phase side by side, and nothing more once the target suffers."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from corral.scan.budget import Budget, BudgetSpentError
from corral.scan.checks import CHECKS
from corral.scan.checks.base import Check
from corral.scan.entrance import STRANGERS, Entrance, enter
from corral.scan.finding import Finding
from corral.scan.grading import grade, score, untold
from corral.scan.observation import Observation
from corral.scan.probes import Probe
from corral.scan.report.model import Report, Spent
from corral.scan.target import find_target
from corral.scan.wire import SufferingError, Wire

Progress = Callable[[str, bool], None]
"""Told each check's id: False when its probe begins, True when its finding is there."""

_LOOKING = 0
"""The phase of the probes that need not be served to learn something."""


async def scan_async(
    url: str,
    *,
    key: str | None = None,
    model: str | None = None,
    owned: bool = False,
    budget_requests: int = 200,
    headers: Mapping[str, str] | None = None,
    timeout: float = 15.0,
    checks: Sequence[Check] = CHECKS,
    progress: Progress | None = None,
) -> Report:
    """Scan the endpoint at `url`; see `corral.scan.scan`."""
    target = find_target(url, owned=owned)
    budget = Budget(requests=budget_requests)
    wire = Wire(target, budget, key=key, headers=headers or {}, timeout=timeout)
    try:
        entrance = await enter(wire, model)
        seen, stopped = await _run_probes(wire, checks, entrance, progress or (lambda _check, _done: None))
    finally:
        await wire.close()
    findings = tuple(_judged(check, seen, stopped) for check in checks)
    given = grade(findings, loopback=target.loopback)
    return Report(
        target.url,
        entrance.found.name,
        entrance.found.evidence,
        "with a key" if key else "without a key",
        given,
        score(findings) if given is not None else None,
        _no_grade(findings, entrance, stopped) if given is None else "",
        findings,
        tuple(check.id for check in checks if check.probe not in seen),
        stopped,
        wire.patience.told(),
        Spent(budget.requests, budget.tokens, budget.seconds),
    )


def _judged(check: Check, seen: Mapping[Probe, Sequence[Observation]], stopped: str) -> Finding:
    """Let the check judge; what was not tested, or not at all for want of budget, says so."""
    observations = seen.get(check.probe, ())
    finding = check.judge(observations)
    if observations:
        return finding
    why = "the budget was spent" if check.probe in seen else stopped
    return Finding(check.id, finding.verdict, finding.severity, (f"not tested: {why}",))


def _no_grade(findings: Sequence[Finding], entrance: Entrance, stopped: str) -> str:
    if stopped:
        return f"the scan {stopped}."
    unclear = untold(findings)
    named = " and ".join([", ".join(unclear[:-1]), unclear[-1]] if len(unclear) > 1 else unclear)
    hint = " Scan with --key to learn what its holder may do." if entrance.shut is not None else ""
    return f"{named} could not be told, and a grade without that would mean nothing.{hint}"


async def _run_probes(
    wire: Wire, checks: Sequence[Check], entrance: Entrance, progress: Progress
) -> tuple[dict[Probe, list[Observation]], str]:
    """Run every probe, phase by phase. Returns what was seen, and why it stopped early, if it did."""
    wanted: dict[Probe, list[Check]] = {}
    for check in checks:
        wanted.setdefault(check.probe, []).append(check)
    seen = _known_already(wire, wanted, entrance)
    for phase in sorted({probe.phase for probe in wanted}):
        if entrance.unserved and phase > _LOOKING:
            return seen, entrance.unserved
        due = [probe for probe in wanted if probe.phase == phase and probe not in seen]

        async def run(probe: Probe) -> None:
            for check in wanted[probe]:
                progress(check.id, False)  # the callback's shape
            try:
                seen[probe] = await probe.send(wire)
            except BudgetSpentError:
                seen[probe] = []
            for check in wanted[probe]:
                progress(check.id, True)  # the callback's shape

        results = await asyncio.gather(*(run(probe) for probe in due), return_exceptions=True)
        for result in results:
            if isinstance(result, SufferingError):
                return seen, f"stopped, because the target suffers: {result}"
            if isinstance(result, BaseException):
                raise result
        if any(answer.status is None for probe in due for answer in seen[probe]) and not await _is_well(wire):
            return seen, "stopped, because the target suffers: it no longer answers"
    return seen, ""


def _known_already(wire: Wire, wanted: Mapping[Probe, object], entrance: Entrance) -> dict[Probe, list[Observation]]:
    """List the probes whose answer the entrance gave: a stranger who is shut out need not ask on."""
    seen: dict[Probe, list[Observation]] = {}
    if wire.key is None:
        seen[STRANGERS] = list(entrance.asked)
    if entrance.shut is not None:
        seen.update({probe: [entrance.shut] for probe in wanted if probe.inside})
    return seen


async def _is_well(wire: Wire) -> bool:
    try:
        pulse = await wire.get("/health")
    except BudgetSpentError:
        return True
    return pulse.status is not None
