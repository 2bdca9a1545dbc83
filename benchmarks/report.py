"""What a run says: a table for each case, the bars, and latest.json."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.bars import LatencyOutcome, Outcome
from benchmarks.cases import CASES
from benchmarks.measure import Plan, Result, Series

_BUSY = 0.9
"""The share of a core from which on its owner counts as the bottleneck."""


def table(result: Result) -> str:
    """Write one case: a line for each contestant."""
    baseline = result.series[0]
    lines = [
        f"{result.case.title}  [upstream by {result.upstream}]",
        f"{'':19}{'median/s':>9}{'min':>9}{'max':>9}{'ratio to ' + baseline.contestant:>18}"
        f"{'per CPU s':>10}{'ratio':>7}{'p50 ms':>8}{'p99 ms':>8}{'server':>8}{'wrk':>6}{'upstream':>9}{'others':>10}",
    ]
    lines += [_row(series, baseline) for series in result.series]
    lines += [f"  note: {note}" for note in notes(result)]
    return "\n".join(lines)


def _row(series: Series, baseline: Series) -> str:
    rates = series.rates
    p50, p99 = (series.alone.p50_ms, series.alone.p99_ms) if series.alone else (0.0, 0.0)
    low, high = paired_ratios(series, baseline)
    ratio = f"{series.median / baseline.median:.3f} ({low:.2f}–{high:.2f})"
    others = f"{_cpu(series, 'others_cpu'):.0%}, {_cpu(series, 'others_at_client'):.0%}"
    return (
        f"{series.contestant:19}{series.median:9,.0f}{min(rates):9,.0f}{max(rates):9,.0f}{ratio:>18}"
        f"{series.per_cpu_second:10,.0f}{series.per_cpu_second / baseline.per_cpu_second:7.3f}{p50:8.3f}{p99:8.3f}"
        f"{_cpu(series, 'server_cpu'):8.0%}{_wrk_cpu(series):6.0%}{_cpu(series, 'upstream_cpu'):9.0%}{others:>10}"
    )


def paired_ratios(series: Series, baseline: Series) -> tuple[float, float]:
    """Find the smallest and largest ratio within one round, where both met the machine in nearly the same state."""
    ratios = [ours / theirs for ours, theirs in zip(series.rates, baseline.rates, strict=True)]
    return min(ratios), max(ratios)


def _cpu(series: Series, what: str) -> float:
    shares: list[float] = [getattr(run, what) for run in series.runs]
    return median(shares)


def _wrk_cpu(series: Series) -> float:
    return median(run.load.client_cpu for run in series.runs)


def notes(result: Result) -> list[str]:
    """Say what a reader must know before the figures are believed."""
    said = []
    for series in result.series:
        server, upstream, client = _cpu(series, "server_cpu"), _cpu(series, "upstream_cpu"), _wrk_cpu(series)
        others, at_client = _cpu(series, "others_cpu"), _cpu(series, "others_at_client")
        if server < _BUSY:
            said.append(
                f"{series.contestant} used {server:.0%} of its core (wrk {client:.0%}, the upstream {upstream:.0%}), "
                "so something else held it back: its rate is a lower bound"
            )
        elif client > _BUSY:
            said.append(f"wrk's core was full as well while it loaded {series.contestant}: its rate is a lower bound")
        if max(others, at_client) > 0.05:
            said.append(
                f"while {series.contestant} ran, other programs took {others:.0%} of its core "
                f"and {at_client:.0%} of wrk's"
            )
    return said


def bars(outcomes: Sequence[Outcome | LatencyOutcome]) -> str:
    """Write the bars, one a line."""
    title = "Bars, by the ratio of the medians (in brackets: by answers in a second of processor time)"
    return "\n".join([title, *(outcome.words for outcome in outcomes)])


def document(
    results: Sequence[Result],
    outcomes: Sequence[Outcome],
    machine: Mapping[str, Any],
    plan: Plan,
    taken: str,
    latency: Sequence[LatencyOutcome] = (),
) -> dict[str, Any]:
    """Build latest.json: `machine`, `cases` in requests/s, and apart from them whatever qualifies these."""
    promised = [result for result in results if result.case in CASES]
    varied = [result for result in results if result.case not in CASES]
    return {
        "machine": dict(machine),
        "cases": {result.case.name: _medians(result) for result in promised},
        "varied": {result.case.name: _medians(result) for result in varied},
        "bars": [
            {
                "case": outcome.bar.case,
                "peer": outcome.bar.peer,
                "at_least": outcome.bar.factor,
                "ratio": round(outcome.ratio, 3),
                "ratio_by_processor_time": round(outcome.by_processor_time, 3),
                "passed": outcome.passed,
            }
            for outcome in outcomes
        ],
        "latency_bars": [
            {
                "case": outcome.bar.case,
                "peer": outcome.bar.peer,
                "at_most": outcome.bar.factor,
                "ratio": round(outcome.ratio, 3),
                "added_ms": {"corral": round(outcome.ours_ms, 4), outcome.bar.peer: round(outcome.theirs_ms, 4)},
                "passed": outcome.passed,
            }
            for outcome in latency
        ],
        "spread": {
            result.case.name: {series.contestant: _spread(series, result.series[0]) for series in result.series}
            for result in results
        },
        "latency_ms": {
            result.case.name: {
                series.contestant: {"p50": series.alone.p50_ms, "p99": series.alone.p99_ms}
                for series in result.series
                if series.alone
            }
            for result in results
        },
        "conditions": {
            "runs": plan.runs,
            "seconds": plan.seconds,
            "connections": plan.connections,
            "upstream": {result.case.name: result.upstream for result in results},
        },
        "taken": taken,
    }


def _medians(result: Result) -> dict[str, float]:
    return {series.contestant: round(series.median, 1) for series in result.series}


def _spread(series: Series, baseline: Series) -> dict[str, Any]:
    low, high = paired_ratios(series, baseline)
    return {
        "min": round(min(series.rates), 1),
        "max": round(max(series.rates), 1),
        "runs": [round(rate, 1) for rate in series.rates],
        f"ratio_to_{baseline.contestant}": [round(low, 3), round(high, 3)],
        "server_cpu": round(_cpu(series, "server_cpu"), 3),
        "wrk_cpu": round(_wrk_cpu(series), 3),
        "upstream_cpu": round(_cpu(series, "upstream_cpu"), 3),
        "others_cpu": round(_cpu(series, "others_cpu"), 3),
        "others_at_client": round(_cpu(series, "others_at_client"), 3),
        "per_cpu_second": round(series.per_cpu_second, 1),
    }
