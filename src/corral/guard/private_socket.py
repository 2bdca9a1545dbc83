"""A Unix socket that nobody but this process can reach.

The server binds it in a fresh directory that only this user may enter. As soon as it is bound, this process takes hold
of the socket itself and removes its name and the directory: from then on it is reached through the descriptor alone,
other processes have nothing to open, and nothing is left behind however this process ends. Where the system cannot
do that (it needs Linux' `/proc`), the name stays until `close`.

A directory left by a process that was killed before its server had bound is removed by the next one.
"""

import contextlib
import fcntl
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from corral.errors import UpstreamError

_PREFIX = "corral-"
_NAME = "s.sock"
_LONGEST_PATH = 100  # bytes; the system's own bound is 104 or 108


class PrivateSocket:
    """A path for a server to bind, and then a way to reach it.

    `path` is what the server binds; `url` what the guard connects to, complete once `take` answered True.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Make the directory, under XDG_RUNTIME_DIR or the temporary directory.

        Raises:
            UpstreamError: no directory can be made there.

        """
        base = _base(environ)
        _sweep(base)
        self._directory, self._lock = _locked_directory(base)
        self.path = str(self._directory / _NAME)
        self._socket: int | None = None

    @property
    def url(self) -> str:
        """Where the socket is reached, in the form of `upstream.url`."""
        return f"unix:{self.path}" if self._socket is None else f"unix:/proc/self/fd/{self._socket}"

    def take(self) -> bool:
        """Take hold of the socket if the server has bound it; False as long as it has not."""
        if self._socket is not None:
            return True
        try:
            bound = stat.S_ISSOCK(Path(self.path).lstat().st_mode)
        except FileNotFoundError:
            return False
        if bound and sys.platform == "linux" and Path("/proc/self/fd").is_dir():
            self._socket = os.open(self.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._remove()
        return bound

    def close(self) -> None:
        """Leave nothing behind."""
        self._remove()
        if self._socket is not None:
            os.close(self._socket)
            self._socket = None

    def _remove(self) -> None:
        if self._lock is not None:
            _remove_directory(self._directory)
            os.close(self._lock)
            self._lock = None


def _base(environ: Mapping[str, str]) -> Path:
    """Choose the first directory that exists, may be written and keeps the socket's path short enough."""
    candidates = [environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]  # noqa: S108 - mkdtemp in it
    for candidate in candidates:
        room = len(os.fsencode(str(Path(candidate) / f"{_PREFIX}12345678" / _NAME))) <= _LONGEST_PATH
        if candidate and room and os.access(candidate, os.W_OK | os.X_OK):
            return Path(candidate)
    raise UpstreamError(
        f"There is no directory for the server's private socket: none of {', '.join(filter(None, candidates))} "
        "can be written and has a short path. Set TMPDIR to one that can."
    )


def _locked_directory(base: Path) -> tuple[Path, int | None]:
    """Make a directory and lock it as in use: the lock goes with the process that holds it."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))  # made with mode 0700
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if directory.is_dir():
            return directory, lock
        os.close(lock)  # another process took it for a leftover before it was locked


def _sweep(base: Path) -> None:
    """Remove the directories of processes that are gone."""
    for directory in base.glob(f"{_PREFIX}????????"):
        with contextlib.suppress(OSError):
            if directory.lstat().st_uid != os.getuid():
                continue
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_directory(directory)
            finally:
                os.close(lock)


def _remove_directory(directory: Path) -> None:
    """Remove the socket and its directory, and nothing else that may be in it."""
    with contextlib.suppress(OSError):
        (directory / _NAME).unlink(missing_ok=True)
        directory.rmdir()
