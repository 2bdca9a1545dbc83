"""Timing of what takes microseconds, within this process."""

import gc
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from benchmarks.cores import choose, physical

_ROUND = 0.02
"""Seconds that one round is to take: long enough for the clock, short enough to fall between interruptions."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds a call: the median of the rounds, the quickest and the slowest."""

    name: str
    median: float
    low: float
    high: float


def timed(name: str, work: Callable[[], object], rounds: int = 25) -> Timing:
    """Call `work` again and again. The garbage collector runs between rounds only."""
    calls = 16
    while _seconds(work, calls) < _ROUND and calls < 1 << 20:
        calls *= 2
    seen = []
    for _ in range(rounds):
        gc.collect()
        seen.append(_seconds(work, calls) / calls * 1e6)
    return Timing(name, median(seen), min(seen), max(seen))


def _seconds(work: Callable[[], object], calls: int) -> float:
    turns = range(calls)
    gc.disable()
    began = time.perf_counter()
    for _ in turns:
        work()
    took = time.perf_counter() - began
    gc.enable()
    return took


def print_table(title: str, timings: Iterable[Timing]) -> None:
    """Print each timing as it comes: µs a call, and the calls a second that a core could make of it alone."""
    os.sched_setaffinity(0, {choose(physical()).server})
    print(f"{title}\n{'':44}{'median µs':>10}{'min':>9}{'max':>9}{'a second':>13}")
    for timing in timings:
        print(
            f"{timing.name:44}{timing.median:10.3f}{timing.low:9.3f}{timing.high:9.3f}{1e6 / timing.median:13,.0f}",
            flush=True,
        )
    print()
