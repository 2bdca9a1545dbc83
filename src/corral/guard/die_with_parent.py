"""Become another program that cannot outlive its parent: `python die_with_parent.py PARENT_PID PROGRAM ARGUMENT…`.

Run as a script between fork and exec, since doing this in the forked child itself is not safe beside threads. On
Linux the kernel then kills the program as soon as the parent ends, `kill -9` included; elsewhere only a parent that
ends in order takes it along. Needs the standard library alone.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
CANNOT_EXECUTE = 126
"""The status where the program cannot be executed, as in a shell."""


def become(parent: int, command: list[str]) -> int:
    """Execute `command` in this process; answers a status only where that is impossible."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was told
        return 128 + signal.SIGKILL
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would hand that on
    try:
        os.execvp(command[0], command)  # noqa: S606 - the operator's own command
    except OSError as error:
        print(f"corral: {command[0]} cannot be executed: {error.strerror}", file=sys.stderr)  # noqa: T201 - a script
        return CANNOT_EXECUTE


if __name__ == "__main__":
    sys.exit(become(int(sys.argv[1]), sys.argv[2:]))
