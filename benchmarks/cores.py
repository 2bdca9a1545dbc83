"""Which core each process gets: the server under test has one for itself."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """A core for the server under test, one for the load generator, one for the upstream; equal where there are few."""

    server: int
    client: int
    upstream: int

    @property
    def words(self) -> str:
        """Say who shares with whom."""
        if self.server == self.client:
            return f"core {self.server}: everything (there is only one core; the figures share it)"
        if self.client == self.upstream:
            return f"core {self.server}: the server under test; core {self.client}: wrk and the upstream"
        return f"core {self.server}: the server under test; core {self.client}: wrk; core {self.upstream}: the upstream"


def choose(available: list[list[int]]) -> Cores:
    """Choose from physical cores, each a list of its hardware threads; siblings are used only for want of cores."""
    first = [threads[0] for threads in available]
    if len(first) < 3:
        first += [thread for threads in available for thread in threads[1:]]
    if len(first) == 1:
        return Cores(first[0], first[0], first[0])
    if len(first) == 2:
        return Cores(first[0], first[1], first[1])
    return Cores(first[0], first[1], first[2])


def physical() -> list[list[int]]:
    """List the physical cores that this process may use, each with its hardware threads."""
    groups: dict[str, list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        group = siblings.read_text().strip() if siblings.exists() else str(cpu)
        groups.setdefault(group, []).append(cpu)
    return list(groups.values())
