"""What Corral has promised to reach, and whether it did."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.measure import Result


@dataclass(frozen=True, slots=True)
class Bar:
    """Corral's rate in `case` must be at least `factor` times that of `peer`."""

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


BARS = (
    Bar("refused", "nginx", 0.6, "limit_req"),
    Bar("proxied", "nginx", 0.4, "proxy_pass"),
    Bar("sse", "nginx", 0.7, "proxy_buffering off"),
    Bar("proxied", "slowapi", 50.0, "FastAPI + slowapi + httpx"),
)


def judge(results: Sequence[Result]) -> list[Outcome]:
    """Hold the results against the bars; a bar whose contestants were not measured is left out."""
    outcomes = []
    for bar in BARS:
        result = next((result for result in results if result.case.name == bar.case), None)
        ours = result.of("corral") if result else None
        theirs = result.of(bar.peer) if result else None
        if ours and theirs:
            outcomes.append(Outcome(bar, ours.median / theirs.median, ours.per_cpu_second / theirs.per_cpu_second))
    return outcomes
