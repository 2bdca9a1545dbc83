"""The pretended inference server: compiled for this machine, started on a core of its own or wrk's."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Process, StartError, accepts, accepts_unix, free_port

_SOURCE = Path(__file__).with_name("upstream.c")


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where the upstream answers: a port of 127.0.0.1, or a Unix socket."""

    process: Process
    port: int
    path: Path | None

    @property
    def url(self) -> str:
        """The form that Corral and the slowapi application take."""
        return f"unix:{self.path}" if self.path else f"http://127.0.0.1:{self.port}"

    @property
    def nginx(self) -> str:
        """The form that nginx takes."""
        return f"unix:{self.path}" if self.path else f"127.0.0.1:{self.port}"


def compile_upstream(folder: Path) -> Path:
    """Compile the upstream into `folder`. Raises StartError where there is no compiler."""
    binary = folder / "upstream"
    try:
        subprocess.run(
            [os.environ.get("CC", "cc"), "-O2", "-o", str(binary), str(_SOURCE)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        detail = error.stderr.decode() if isinstance(error, subprocess.CalledProcessError) else error
        raise StartError(f"The upstream could not be compiled: {detail}") from error
    return binary


@contextmanager
def running_upstream(binary: Path, folder: Path, core: int, *, unix: bool) -> Iterator[Upstream]:
    """Start the upstream, and end it with the block."""
    port, path = (0, folder / "model.sock") if unix else (free_port(), None)
    with Process("upstream", [str(binary), str(path or port)], core, folder / "upstream.log") as process:
        process.wait_for(accepts_unix(path) if path else accepts(port))
        yield Upstream(process, port, path)
