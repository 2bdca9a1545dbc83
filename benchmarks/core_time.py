"""How busy a core has been, by the kernel's own account."""

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def core_seconds(core: int, table: str | None = None) -> float:
    """Add up what processes, and the hypervisor, have taken of a core so far, in seconds; interrupts apart."""
    for line in (table or Path("/proc/stat").read_text()).splitlines():
        name, *columns = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _waiting, _irq, _softirq, steal = map(int, columns[:8])
            return (user + nice + system + steal) / _TICKS
    return 0.0
