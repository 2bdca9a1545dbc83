"""The inference server as a child: started out of everybody's reach, watched, and never left behind.

The child is its own process group, so that a terminal's Ctrl-C reaches Corral alone and the guard can drain first. On
Linux the kernel kills it should Corral itself be killed. It is never restarted: whoever runs Corral decides that.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import httpx2

from corral.errors import UpstreamError, UsageError
from corral.guard import die_with_parent
from corral.guard.launch_arguments import Launch
from corral.guard.private_socket import PrivateSocket

START_TIMEOUT = 600.0
"""Seconds that a server may take to load its model, unless told otherwise."""

_POLL = 0.05  # seconds between looks at a server that is not ready
_STDERR = 2


class ServerEndedError(UpstreamError):
    """The server ended before it was ready, with `status`; Corral's own exit status is the same."""

    def __init__(self, status: int) -> None:
        super().__init__(f"The server {describe_ending(status)} before it was ready; see what it said above.")
        self.status = status
        self.exit_code = status or 1


class Server:
    """One llama-server, started by `start` and ended by `stop`. Use it on one event loop's thread: the main one.

    `url` is where the guard reaches it; `slots` how many requests it works on at once, once it is ready, 0 where it
    does not say.
    """

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._socket: PrivateSocket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Future[int] | None = None
        self._reaping = threading.Lock()
        self.slots = 0

    @property
    def url(self) -> str:
        """Where the guard reaches the server, as `upstream.url` has it."""
        assert self._socket is not None, "started first"
        return self._socket.url

    def start(self) -> None:
        """Start the child; its output goes to this process's standard error, but where it is all that was asked for.

        Raises:
            UsageError: there is no such program.
            UpstreamError: it cannot be started, or there is no place for its socket.

        """
        launch = self._launch
        program = find_program(launch)
        self._socket = PrivateSocket(launch.environ)
        command = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), program]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the command that the operator wrote, without a shell
                [*command, *launch.command(self._socket.path)[1:]],
                stdin=subprocess.DEVNULL,
                stdout=None if launch.only_tells else _STDERR,
                stderr=_STDERR,
                env=launch.environ,
                process_group=0,
            )
        except OSError as error:
            self._socket.close()
            raise UpstreamError(f"{launch.program} cannot be started: {error.strerror}.") from None
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        watch = threading.Thread(target=self._watch, args=(loop,), name="corral-server-watch", daemon=True)
        watch.start()

    async def ready(self, patience: float = START_TIMEOUT, progress: Callable[[str], None] | None = None) -> None:
        """Wait until the server answers `/health` with 200; `progress` is told once that a model is being loaded.

        Raises:
            ServerEndedError: it ended instead.
            UpstreamError: it is not ready after `patience` seconds, or it is a router that starts further servers.

        """
        try:
            async with asyncio.timeout(patience):
                await self._become_ready(progress)
        except TimeoutError:
            raise UpstreamError(
                f"The server is not ready after {patience:g} seconds. "
                "If its model takes longer to load, say so with --start-timeout."
            ) from None

    async def ended(self) -> int:
        """Wait for the child's end and answer its status as a shell spells it: 128 + N for signal N."""
        assert self._ended is not None, "started first"
        return await asyncio.shield(self._ended)

    async def stop(self, signal_number: int = signal.SIGTERM, patience: float = 10.0) -> int:
        """End the child: by `signal_number`, and by SIGKILL after `patience` seconds. Answers its status.

        Whatever the child itself started in its process group is ended too. Calling it again, or after the child
        ended, is fine.
        """
        if self._process is None or self._ended is None:
            return 0
        try:
            if not self._ended.done() and patience > 0:
                self._signal(signal_number)
                await asyncio.wait((self._ended,), timeout=patience)
        finally:
            self._signal(signal.SIGKILL)
            if self._socket is not None:
                self._socket.close()
        return await asyncio.shield(self._ended)

    def _signal(self, signal_number: int) -> None:
        """Signal the child's whole group, unless it is gone: its number may be another's by then."""
        assert self._process is not None
        with self._reaping, contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal_number)

    async def _become_ready(self, progress: Callable[[str], None] | None) -> None:
        assert self._socket is not None
        assert self._ended is not None
        told = False
        client: httpx2.AsyncClient | None = None
        try:
            while not self._ended.done():
                if client is None and self._socket.take():
                    client = self._client()
                status = await _health(client) if client is not None else 0
                if client is not None and status == 200:
                    await self._read_properties(client)
                    return
                if status == 503 and progress is not None and not told:
                    progress("The server is loading its model.")
                    told = True
                await asyncio.sleep(_POLL)
        finally:
            if client is not None:
                await client.aclose()
        raise ServerEndedError(self._ended.result())

    async def _read_properties(self, client: httpx2.AsyncClient) -> None:
        """Learn how many slots there are, and refuse a router."""
        try:
            properties = (await client.get("/props")).json()
        except (httpx2.HTTPError, ValueError):
            return
        if not isinstance(properties, dict):
            return
        if properties.get("role") == "router":
            raise UpstreamError(
                "The server was given no model and started as a router, which runs each model on a TCP port of its "
                "own, where the guard cannot stand in front of it. Name one model with -m or -hf."
            )
        slots = properties.get("total_slots")
        self.slots = slots if isinstance(slots, int) and slots > 0 else 0

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the child in a thread of its own, end what it leaves in its group, and tell the loop its status."""
        process, ended = self._process, self._ended
        assert process is not None
        assert ended is not None
        if sys.platform == "linux":
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # not reaped yet: its number stays its own
            self._signal(signal.SIGKILL)
            with self._reaping:
                process.wait()
        code = process.wait()
        status = 128 - code if code < 0 else code
        with contextlib.suppress(RuntimeError):  # the loop was closed first
            loop.call_soon_threadsafe(ended.set_result, status)

    def _client(self) -> httpx2.AsyncClient:
        transport = httpx2.AsyncHTTPTransport(uds=self.url.removeprefix("unix:"))
        return httpx2.AsyncClient(transport=transport, base_url="http://server", timeout=5.0, trust_env=False)


def find_program(launch: Launch) -> str:
    """Find the server's program.

    Raises:
        UsageError: there is none.

    """
    program = shutil.which(launch.program, path=launch.environ.get("PATH"))
    if program is None:
        raise UsageError(f"There is no program {launch.program!r} that can be executed: name it by its path.")
    return program


def describe_ending(status: int) -> str:
    """Say how a process ended, from its status: "ended with status 1", "was killed by SIGSEGV"."""
    if status > 128:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(status - 128).name}"
    return f"ended with status {status}"


async def _health(client: httpx2.AsyncClient) -> int:
    """Ask `/health`; 0 where there is no answer yet."""
    try:
        return (await client.get("/health")).status_code
    except httpx2.HTTPError:
        return 0
