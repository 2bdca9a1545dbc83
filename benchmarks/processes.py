"""Processes that belong to a run: pinned to a core, measured, and ended with it whatever happens."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

_TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class StartError(Exception):
    """A process ended, or did not answer in time, while it was started."""


def free_port() -> int:
    """Find a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _pinned(core: int) -> Callable[[], None]:
    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return prepare


class Process:
    """One server in a session of its own; what it writes goes to `log`."""

    def __init__(self, name: str, command: Sequence[str], core: int, log: Path, *, cwd: Path | None = None) -> None:
        self.name = name
        self._log = log
        self._output: IO[bytes] = log.open("ab")
        self._child = subprocess.Popen(  # the context manager below ends it
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
            preexec_fn=_pinned(core),  # noqa: PLW1509  # there are no threads here
            cwd=cwd,
        )

    @property
    def pid(self) -> int:
        """The first process of the session."""
        return self._child.pid

    def wait_for(self, answers: Callable[[], bool], patience: float = 30.0) -> None:
        """Wait until `answers` says that the server is there. Raises StartError with the server's last words."""
        end = time.monotonic() + patience
        while not answers():
            if self._child.poll() is not None or time.monotonic() > end:
                raise StartError(self.obituary())
            time.sleep(0.02)

    def obituary(self) -> str:
        """Say whether the server has ended, and how; then its last words."""
        status = self._child.poll()
        what = "does not answer" if status is None else f"ended with {status}"
        return f"{self.name} {what}:\n{self._log.read_text(errors='replace')[-2000:]}"

    def cpu_seconds(self) -> float:
        """Add up the processor time of the session's processes so far, in seconds."""
        return sum(cpu for session, cpu in _sessions() if session == self.pid)

    def stop(self) -> None:
        """End the whole session: asked first, killed after three seconds."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=3)
                break
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # a worker that outlived its master
        self._output.close()

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _sessions() -> list[tuple[int, float]]:
    """Read (session, processor seconds) of every process."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            found.append((int(fields[3]), (int(fields[11]) + int(fields[12])) / _TICKS))
    return found


def accepts(port: int) -> Callable[[], bool]:
    """Build a check that something listens on `port` of 127.0.0.1."""

    def answers() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return answers


def accepts_unix(path: Path) -> Callable[[], bool]:
    """Build a check that something listens on a Unix socket."""

    def answers() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(path)) == 0

    return answers
