"""What starts commands as people do, and cleans up after them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from corral.demo.llama_server import find_llama_server
from running_commands import PATIENCE, Command, Start


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A directory for private sockets, with a path as short as they need."""
    path = Path(tempfile.mkdtemp(prefix="crl"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def corral(runtime: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a command: `corral("guard", url, environ={…})`."""
    started: list[tuple[Command, threading.Thread]] = []

    def start(*arguments: str | Path, environ: dict[str, str] | None = None) -> Command:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("CORRAL_", "LLAMA_"))}
        process = subprocess.Popen(
            [sys.executable, "-m", "corral", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={
                **clean,
                "XDG_RUNTIME_DIR": str(runtime),
                "XDG_STATE_HOME": str(tmp_path / "state"),
                **(environ or {}),
            },
            cwd=tmp_path,
            process_group=0,
        )
        command = Command(process, runtime)
        reader = threading.Thread(target=command.read)
        reader.start()
        started.append((command, reader))
        return command

    yield start
    for command, reader in started:
        if command.process.poll() is None:
            command.process.send_signal(signal.SIGKILL)
        command.process.wait()
        reader.join(PATIENCE)
        assert not reader.is_alive(), "something that the command started still holds its standard error"
        assert command.process.stderr is not None
        command.process.stderr.close()


@pytest.fixture(scope="session")
def server_program() -> str:
    """The real llama-server."""
    return str(find_llama_server()[0])


@pytest.fixture
def fake_server(tmp_path: Path) -> Callable[[Sequence[str]], Path]:
    """Write a program called llama-server out of Python lines; `path` is the socket it is to bind."""

    def write(lines: Sequence[str]) -> Path:
        program = tmp_path / "llama-server"
        head = [f"#!{sys.executable}", "import os, signal, socket, sys, time", "path = sys.argv[-1]"]
        program.write_text("\n".join([*head, *lines, ""]))
        program.chmod(0o755)
        return program

    return write
