"""Runs the checks: equal probes once, those of a phase side by side, and nothing more once the target suffers."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from corral.errors import TargetError
from corral.scan.budget import Budget, BudgetSpentError
from corral.scan.checks import CHECKS
from corral.scan.checks.base import Check
from corral.scan.finding import Finding
from corral.scan.fingerprint import Fingerprint, fingerprint
from corral.scan.grading import grade, score
from corral.scan.observation import Observation
from corral.scan.probes import Probe
from corral.scan.report.model import Report, Spent
from corral.scan.target import find_target
from corral.scan.wire import SufferingError, Wire

Progress = Callable[[str, bool], None]
"""Told each check's id: False when its probe begins, True when its finding is there."""


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
        found = await _reach(wire)
        wire.model = model or found.model
        seen, stopped = await _run_probes(wire, checks, progress or (lambda _check, _done: None))
    finally:
        await wire.close()
    findings = tuple(check.judge(seen[check.probe]) for check in checks if check.probe in seen)
    missing = tuple(check.id for check in checks if check.probe not in seen)
    unjudged = tuple(
        Finding(check.id, check.judge(()).verdict, check.severity, (f"not tested: {stopped}",))
        for check in checks
        if check.probe not in seen
    )
    ordered = tuple(sorted((*findings, *unjudged), key=lambda f: [check.id for check in checks].index(f.check)))
    return Report(
        target.url,
        found.name,
        found.evidence,
        "with a key" if key else "without a key",
        grade(ordered, loopback=target.loopback),
        score(ordered),
        ordered,
        missing,
        stopped,
        Spent(budget.requests, budget.tokens, budget.seconds),
    )


async def _reach(wire: Wire) -> Fingerprint:
    probe = await wire.get("/health")
    if probe.status is None:
        raise TargetError(f"{wire.target.url} does not answer ({probe.error or 'connection closed'}).")
    try:
        return await fingerprint(wire)
    except (SufferingError, BudgetSpentError) as error:
        raise TargetError(f"{wire.target.url} could not be looked at: {error or 'the budget is too small'}.") from error


async def _run_probes(
    wire: Wire, checks: Sequence[Check], progress: Progress
) -> tuple[dict[Probe, list[Observation]], str]:
    """Run every probe, phase by phase. Returns what was seen, and why it stopped early, if it did."""
    wanted: dict[Probe, list[Check]] = {}
    for check in checks:
        wanted.setdefault(check.probe, []).append(check)
    seen: dict[Probe, list[Observation]] = {}
    for phase in sorted({probe.phase for probe in wanted}):
        due = [probe for probe in wanted if probe.phase == phase]

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
        if not await _is_well(wire):
            return seen, "stopped, because the target suffers: it no longer answers"
    return seen, ""


async def _is_well(wire: Wire) -> bool:
    try:
        pulse = await wire.get("/health")
    except BudgetSpentError:
        return True
    return pulse.status is not None
