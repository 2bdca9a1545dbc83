"""What Corral has promised to reach, and whether it did."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.measure import Result

OURS = "corral-everything"
"""The contestant that is held against the bars: the guard with everything on."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The guard's rate in `case` must be at least `factor` times that of `peer`."""

    case: str
    peer: str
    factor: float
    peer_does: str


@dataclass(frozen=True, slots=True)
class LatencyBar:
    """What the guard adds to the median answer, one at a time, may be at most `factor` times what `peer` adds."""

    case: str
    peer: str
    factor: float
    peer_does: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A bar, and the ratio of the medians that was seen.

    `by_processor_time` is the same ratio of the answers in a second of each server's processor time. Where it is far
    off, something but the servers' own work held one of them back.
    """

    bar: Bar
    ratio: float
    by_processor_time: float

    @property
    def passed(self) -> bool:
        """Tell whether the ratio reaches the bar."""
        return self.ratio >= self.bar.factor

    @property
    def words(self) -> str:
        """Say it in one line."""
        verdict = "pass" if self.passed else "FAIL"
        return (
            f"{verdict}  {self.bar.case:<8}{self.ratio:7.2f} × {self.bar.peer} ({self.bar.peer_does}), "
            f"bar {self.bar.factor:g}  ({self.by_processor_time:.2f})"
        )


@dataclass(frozen=True, slots=True)
class LatencyOutcome:
    """A bar of latency, and what each side added to the upstream's own median, in milliseconds."""

    bar: LatencyBar
    ours_ms: float
    theirs_ms: float

    @property
    def ratio(self) -> float:
        """What the guard adds, as a multiple of what the peer adds."""
        return self.ours_ms / max(self.theirs_ms, 0.001)

    @property
    def passed(self) -> bool:
        """Tell whether the guard stays within the bar."""
        return self.ratio <= self.bar.factor

    @property
    def words(self) -> str:
        """Say it in one line."""
        verdict = "pass" if self.passed else "FAIL"
        return (
            f"{verdict}  {self.bar.case:<8}{self.ratio:7.2f} × {self.bar.peer}'s added latency "
            f"({self.bar.peer_does}), bar {self.bar.factor:g}  ({self.ours_ms:.3f} and {self.theirs_ms:.3f} ms)"
        )


BARS = (
    Bar("refused", "nginx", 0.6, "limit_req"),
    Bar("refused", "envoy", 1.5, "local_ratelimit"),
    Bar("proxied", "nginx", 0.4, "proxy_pass"),
    Bar("proxied", "envoy", 1.2, "a plain route"),
    Bar("proxied", "litellm", 150.0, "its proxy"),
    Bar("proxied", "slowapi", 50.0, "FastAPI + slowapi + httpx"),
    Bar("sse", "nginx", 0.8, "proxy_buffering off"),
)

LATENCY = LatencyBar("proxied", "nginx", 2.0, "p50, one connection")


def judge(results: Sequence[Result]) -> list[Outcome]:
    """Hold the results against the bars; a bar whose contestants were not measured is left out."""
    outcomes = []
    for bar in BARS:
        result = next((result for result in results if result.case.name == bar.case), None)
        ours = result.of(OURS) if result else None
        theirs = result.of(bar.peer) if result else None
        if ours and theirs:
            outcomes.append(Outcome(bar, ours.median / theirs.median, ours.per_cpu_second / theirs.per_cpu_second))
    return outcomes


def judge_latency(results: Sequence[Result], direct_ms: float) -> list[LatencyOutcome]:
    """Hold the latency against its bar; `direct_ms` is the median of the upstream without anybody in front of it."""
    result = next((result for result in results if result.case.name == LATENCY.case), None)
    ours = result.of(OURS) if result else None
    theirs = result.of(LATENCY.peer) if result else None
    if not (ours and theirs and ours.alone and theirs.alone):
        return []
    return [LatencyOutcome(LATENCY, ours.alone.p50_ms - direct_ms, theirs.alone.p50_ms - direct_ms)]
