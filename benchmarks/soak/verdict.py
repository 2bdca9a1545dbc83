"""Whether the guard came out as it went in."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.soak.samples import GAUGES, Sample, bound, slope

WARM = 0.3
"""The share of the time that is passed over when memory is judged: tables fill, code is loaded."""

SERVED = 0.99
"""The share of the honest requests that must be served in the end."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One bar: what was measured, in words, and whether it holds."""

    holds: bool
    words: str


def judge(
    before: Sample, samples: Sequence[Sample], after: Sample, tally: Counter[str], *, alive: bool
) -> list[Judgement]:
    """Judge a soak by what the process took before, during and after it, and by what its clients got."""
    warm = [sample for sample in samples if sample.at >= WARM * samples[-1].at]
    grows, most = slope(warm), bound(warm)
    asked, served = tally["honest served"] + tally["honest failed"], tally["honest served"]
    share = served / asked if asked else 0.0
    left = {name: after.gauges[name] for name in GAUGES if name != "clients" and after.gauges[name]}
    return [
        Judgement(alive, "the guard runs, and is the process that was started"),
        Judgement(
            grows <= most,
            f"resident memory after {WARM:.0%} of the time grows by {grows:+.2f} MB/minute (at most {most:.2f})",
        ),
        Judgement(after.files == before.files, f"{before.files} files open before, {after.files} after"),
        Judgement(after.threads == before.threads, f"{before.threads} threads before, {after.threads} after"),
        Judgement(not left, f"nothing is held: {left or 'no place, connection or token'}"),
        Judgement(share >= SERVED, f"{share:.2%} of {asked} honest requests were served (at least {SERVED:.0%})"),
    ]


def table(samples: Sequence[Sample], rows: int = 20) -> str:
    """Print some of the samples, the last one among them."""
    step = max(1, -(-len(samples) // rows))
    shown = [*samples[:-1:step], samples[-1]]
    lines = [f"{'seconds':>8}{'MB':>8}{'files':>7}{'threads':>9}" + "".join(f"{name:>12}" for name in GAUGES)]
    lines += [
        f"{sample.at:8.0f}{sample.resident / 1e6:8.1f}{sample.files:7}{sample.threads:9}"
        + "".join(f"{sample.gauges[name]:12.0f}" for name in GAUGES)
        for sample in shown
    ]
    return "\n".join(lines)
