"""An event loop whose clock a test's own waiting moves, with a network inside the process.

`asyncio.start_server`, `asyncio.open_connection` and the guard's own sockets work on it as on any other; nothing is
sent, and nothing is waited for: when nobody has anything to do, it is at once as late as the next timer says.
"""

import asyncio
import selectors
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_PORT = 50_000


class _Selector(selectors.DefaultSelector):
    """Moves the clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits, and nobody has set a timer"
            self.now += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)
        self._servers: dict[int, Callable[[], asyncio.BaseProtocol]] = {}
        self.unreachable: Callable[[int], bool] = lambda port: False
        """Tells for a port whether the next connection to it fails."""

    def time(self) -> float:
        return self._clock.now

    async def create_server(self, factory, host=None, port=None, **more) -> Any:  # type: ignore[override]
        port = port or _FIRST_PORT + len(self._servers)
        self._servers[port] = factory
        return _Server(self._servers, port)

    async def create_connection(self, factory, host=None, port=None, **more) -> Any:  # type: ignore[override]
        await asyncio.sleep(0.0001)
        if port not in self._servers or self.unreachable(port):
            raise ConnectionRefusedError(111, "Connection refused")
        here, there = _End(self, factory()), _End(self, self._servers[port]())
        here.peer, there.peer = there, here
        there.protocol.connection_made(there)
        here.protocol.connection_made(here)
        return here, here.protocol


class _Server:
    """What `create_server` returns."""

    def __init__(self, servers: dict[int, Any], port: int) -> None:
        self._servers, self._port = servers, port
        self.sockets = [self]

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", self._port

    def close(self) -> None:
        self._servers.pop(self._port, None)

    def is_serving(self) -> bool:
        return self._port in self._servers


class _End(asyncio.Transport):
    """One end of a connection."""

    peer: "_End"

    def __init__(self, loop: VirtualLoop, protocol: Any) -> None:
        super().__init__()
        self._loop, self.protocol = loop, protocol
        self._inbox: deque[bytes | None] = deque()
        self._paused = self._closing = self._lost = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 40_000) if name == "peername" else default

    def write(self, data: Any) -> None:
        if self._closing:
            return
        if self.peer._closing:
            self._close(ConnectionResetError(104, "Connection reset by peer"))
            return
        self.peer._take(bytes(data))

    def write_eof(self) -> None:
        self.peer._take(None)

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._close(None)

    def abort(self) -> None:
        self._close(None)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._loop.call_soon(self._deliver)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def _close(self, error: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self.peer._take(None)
            self._loop.call_soon(self.protocol.connection_lost, error)

    def _take(self, data: bytes | None) -> None:
        self._inbox.append(data)
        self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        while self._inbox and not self._paused and not self._closing:
            data = self._inbox.popleft()
            if data is not None:
                self.protocol.data_received(data)
            elif not self.protocol.eof_received():
                self.close()
