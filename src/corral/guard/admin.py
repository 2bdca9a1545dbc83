"""The guard's own metrics and health, on a listener that its clients do not reach.

`GET /metrics` answers Prometheus' text format, `GET /health` 200 while the guard runs. Each connection gets
one answer and lives a few seconds at most.
"""

import asyncio
import os
from collections.abc import Callable
from typing import cast

import httptools

from corral.guard.metrics import CONTENT_TYPE, Metrics
from corral.guard.service import ListenError
from corral.policy.address import Endpoint

_MAX_CONNECTIONS = 16
_MAX_HEAD = 8 * 1024  # bytes of one request
_LIFETIME = 10.0  # seconds from a connection's first byte to its end


class AdminServer:
    """Serves `metrics` on its own address; `address` is the one bound, after `start`."""

    def __init__(self, metrics: Metrics, address: tuple[str, int]) -> None:
        self.address = address
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            ListenError: the address cannot be listened on.

        """
        host, port = self.address
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _Connection(self._metrics.exposition, self._connections), host, port
            )
        except OSError as error:
            raise ListenError(
                f"Cannot listen on {Endpoint(host, port)}: {os.strerror(error.errno) if error.errno else error}. "
                "Choose another address with --admin."
            ) from None
        bound = self._server.sockets[0].getsockname()
        self.address = (bound[0], bound[1])

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self._connections):
            connection.abort()
        await self._server.wait_closed()
        self._server = None


class _Connection(asyncio.Protocol):
    """One scrape: reads a request, writes an answer, closes."""

    def __init__(self, exposition: Callable[[], bytes], connections: "set[_Connection]") -> None:
        self._exposition = exposition
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._end: asyncio.TimerHandle | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._received = 0
        self._target = b""
        self._answered = False
        self._head_only = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of asyncio's
        if len(self._connections) >= _MAX_CONNECTIONS:
            self._answered = True
            self.abort()
            return
        self._connections.add(self)
        self._end = asyncio.get_running_loop().call_later(_LIFETIME, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._connections.discard(self)
        if self._end is not None:
            self._end.cancel()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        self._received += len(data)
        if self._received > _MAX_HEAD:
            self._answer(431, b"The request is too long.\n")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._answer(400, b"There is nothing to upgrade to.\n")
        except httptools.HttpParserError:
            self._answer(400, b"This is not HTTP/1.1.\n")

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_headers_complete(self) -> None:
        path = self._target.partition(b"?")[0]
        method = self._parser.get_method()
        self._head_only = method == b"HEAD"
        if path not in (b"/metrics", b"/health"):
            self._answer(404, b"There are /metrics and /health here.\n")
        elif method not in (b"GET", b"HEAD"):
            self._answer(405, b"GET only.\n")
        elif path == b"/health":
            self._answer(200, b'{"status":"ok"}\n', "application/json")
        else:
            self._answer(200, self._exposition(), CONTENT_TYPE)

    def _answer(self, status: int, body: bytes, media_type: str = "text/plain; charset=utf-8") -> None:
        if self._answered or self._transport is None:
            return
        self._answered = True
        lines = [
            f"HTTP/1.1 {status} {_REASONS[status]}",
            f"Content-Type: {media_type}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        ]
        if status == 405:
            lines.append("Allow: GET, HEAD")
        head = "\r\n".join((*lines, "", "")).encode()
        self._transport.write(head if self._head_only else head + body)
        self._transport.close()


_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
}
