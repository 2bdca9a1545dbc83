"""Commands as people run them: real processes, watched from outside."""

import os
import re
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

PATIENCE = 30.0


@dataclass
class Command:
    """A running `corral`."""

    process: "subprocess.Popen[bytes]"
    runtime: Path
    _lines: list[str] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def read(self) -> None:
        """Collect standard error; runs in a thread."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self._lines.append(line.decode())
                self._news.notify_all()

    @property
    def errors(self) -> str:
        """What it said so far."""
        with self._news:
            return "".join(self._lines)

    def said(self, pattern: str) -> re.Match[str]:
        """Wait until it says something that matches."""
        with self._news:
            found: list[re.Match[str]] = []

            def look() -> bool:
                found.extend(re.finditer(pattern, "".join(self._lines)))
                return bool(found)

            assert self._news.wait_for(look, PATIENCE), f"{pattern!r} is not in:\n{''.join(self._lines)}"
            return found[0]

    @property
    def url(self) -> str:
        """Where the guard answers, once it does."""
        return f"http://127.0.0.1:{self.said(r'Listens on 127.0.0.1:([0-9]+)').group(1)}"

    @property
    def child(self) -> int:
        """The process of the server that it started."""
        pid = self.process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end and answer its status, as a shell does."""
        code = self.process.wait(PATIENCE)
        return 128 - code if code < 0 else code


def wait_for_end(pid: int) -> Callable[[], None]:
    """Take hold of a process that is no child of ours; the answer waits for its end."""
    descriptor = os.pidfd_open(pid)

    def wait() -> None:
        ended, _, _ = select.select([descriptor], [], [], PATIENCE)
        os.close(descriptor)
        assert ended, f"process {pid} is still there"

    return wait


Start = Callable[..., Command]
"""`corral("guard", url, environ={…})` starts that command."""
