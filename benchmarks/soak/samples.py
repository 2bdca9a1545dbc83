"""What a process takes, from outside, and whether it grows."""

import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

GAUGES = {
    "running": "corral_running_requests", "waiting": "corral_waiting_requests", "connections": "corral_connections",
    "upstream": "corral_upstream_connections", "clients": "corral_tracked_clients", "held": "corral_held_tokens",
}  # fmt: skip
"""What the guard's metrics tell of its state; those with labels are added up."""

GROWTH = 0.1
"""Megabytes a minute that resident memory may seem to grow in the long run…"""

NOISE = 8.0
"""…and megabytes besides, over the whole time measured: closed connections are freed late, by full collections."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: seconds since the start, resident bytes, open files, threads, and the gauges by their short names."""

    at: float
    resident: int
    files: int
    threads: int
    gauges: dict[str, float]


def look(pid: int, admin: int, at: float) -> Sample:
    """Look at a process now."""
    proc = Path(f"/proc/{pid}")
    files, threads = (len(list((proc / name).iterdir())) for name in ("fd", "task"))
    text = scrape(admin)  # last: it has the guard ask its server how it is
    return Sample(
        at,
        resident(pid),
        files,
        threads,
        {name: gauge(text, metric) for name, metric in GAUGES.items()},
    )


def resident(pid: int) -> int:
    """Read the resident memory of a process, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def scrape(admin: int) -> str:
    """Fetch the metrics; empty where they do not come."""
    try:
        with urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    except (URLError, OSError):
        return ""


def gauge(text: str, name: str) -> float:
    """Add up a metric over its labels."""
    return sum(float(value) for value in re.findall(rf"(?m)^{name}(?:{{[^}}]*}})? (\S+)$", text))


def slope(samples: Sequence[Sample]) -> float:
    """Fit a line to the resident memory: megabytes a minute. The median of all slopes of two (Theil and Sen)."""
    slopes = [
        (later.resident - earlier.resident) / (later.at - earlier.at)
        for index, earlier in enumerate(samples)
        for later in samples[index + 1 :]
        if later.at > earlier.at
    ]
    return statistics.median(slopes) * 60 / 1_000_000 if slopes else 0.0


def bound(samples: Sequence[Sample]) -> float:
    """Say how steep the line may be: megabytes a minute."""
    minutes = (samples[-1].at - samples[0].at) / 60 if len(samples) > 1 else 0.0
    return GROWTH + (NOISE / minutes if minutes else NOISE)
