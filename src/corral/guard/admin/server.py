"""The listener of a guard that its clients do not reach: its connections, and the bounds on them.

`GET /metrics` answers Prometheus' text format, `GET /health` 200 while the guard runs, to anybody. All else is the
admin API's. Each connection gets one answer and lives a few seconds at most. A request is its head: the path and the
query say all that there is to say.
"""

import asyncio
import logging
import os
from typing import Protocol, cast

import httptools

from corral.guard.admin.message import REASONS, Answer, Request, problem
from corral.guard.identity import Identity
from corral.guard.metrics import CONTENT_TYPE, Metrics
from corral.guard.service import ListenError
from corral.policy.address import Endpoint

_log = logging.getLogger("corral.guard")

_MAX_CONNECTIONS = 16
_MAX_REQUEST = 8 * 1024  # bytes, with a body if there is one
_LIFETIME = 10.0  # seconds from a connection's first byte to its end


class Api(Protocol):
    """What answers all requests but those for metrics and health."""

    async def answer(self, request: Request) -> Answer:
        """Answer one request."""
        ...


class AdminServer:
    """Serves `metrics`, and `api` where there is one; `address` is the one bound, after `start`.

    It has few connections. When all are taken, whoever has been connected longest without having sent its request
    makes room: nobody can keep others out by saying nothing.
    """

    def __init__(self, metrics: Metrics, address: tuple[str, int], api: Api | None = None) -> None:
        self.address = address
        self.metrics = metrics
        self.api = api
        self._server: asyncio.Server | None = None
        self._connections: dict[_Connection, None] = {}  # the oldest first
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            ListenError: the address cannot be listened on.

        """
        host, port = self.address
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: _Connection(self), host, port)
        except OSError as error:
            raise ListenError(
                f"Cannot listen on {Endpoint(host, port)}: {os.strerror(error.errno) if error.errno else error}. "
                "Choose another address with --admin."
            ) from None
        bound = self._server.sockets[0].getsockname()
        self.address = (bound[0], bound[1])

    async def stop(self) -> None:
        """Stop listening, close every connection, and let what they have begun come to its end."""
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self._connections):
            connection.abort()
        await self._server.wait_closed()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server = None

    def opened(self, connection: "_Connection") -> bool:
        """Take a connection in; False where there is no room."""
        if len(self._connections) >= _MAX_CONNECTIONS:
            silent = next((known for known in self._connections if not known.asked), None)
            if silent is None:
                return False
            silent.abort()
            self.closed(silent)
        self._connections[connection] = None
        return True

    def closed(self, connection: "_Connection") -> None:
        """Forget a connection."""
        self._connections.pop(connection, None)

    def ask(self, request: Request, connection: "_Connection") -> None:
        """Have the API answer; what it does goes on though its client may leave."""
        task = asyncio.get_running_loop().create_task(self._answer(request, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: Request, connection: "_Connection") -> None:
        if self.api is None:
            connection.answer(problem(404, "There are /metrics and /health here."))
            return
        try:
            answer = await self.api.answer(request)
        except Exception:  # noqa: BLE001  # fail closed: what cannot be judged is not done
            _log.exception("A request to the admin API failed")
            answer = problem(500, "The guard failed to answer this; its log says why.")
        connection.answer(answer)


class _Connection(asyncio.Protocol):
    """One request: reads it, writes an answer, closes. `asked` is whether it has been read."""

    def __init__(self, server: AdminServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._end: asyncio.TimerHandle | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._received = 0
        self._target = b""
        self._head: dict[bytes, bytes] = {}
        self._peer = ""
        self._answered = False
        self._head_only = False
        self.asked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses of asyncio's
        if not self._server.opened(self):
            self._answered = True
            self.abort()
            return
        peer = transport.get_extra_info("peername")
        self._peer = Identity().peer(peer[0]) if isinstance(peer, tuple) else ""
        self._end = asyncio.get_running_loop().call_later(_LIFETIME, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._server.closed(self)
        self._answered = True
        if self._end is not None:
            self._end.cancel()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answered or self.asked:
            return
        self._received += len(data)
        if self._received > _MAX_REQUEST:
            self.answer(problem(431, f"A request may have {_MAX_REQUEST} bytes here, and needs no body."))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.answer(problem(400, "There is nothing to upgrade to."))
        except httptools.HttpParserError:
            self.answer(problem(400, "This is not HTTP/1.1."))

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head[name.lower()] = value

    def on_headers_complete(self) -> None:
        path = self._target.partition(b"?")[0]
        method = self._parser.get_method()
        self._head_only = method == b"HEAD"
        if path not in (b"/metrics", b"/health"):
            return
        if method not in (b"GET", b"HEAD"):
            self.answer(problem(405, "GET only.", [("Allow", "GET, HEAD")]))
        elif path == b"/health":
            self.answer(Answer(200, b'{"status":"ok"}\n'))
        else:
            self.answer(Answer(200, self._server.metrics.exposition(), CONTENT_TYPE))

    def on_message_complete(self) -> None:
        if self._answered or self.asked:
            return
        self.asked = True
        path, _, query = self._target.decode("latin-1").partition("?")
        method = self._parser.get_method().decode("latin-1")
        self._server.ask(Request(method, path, query, self._head, self._peer), self)

    def answer(self, answer: Answer) -> None:
        """Write the answer, and close; nobody may be there any more."""
        if self._answered or self._transport is None:
            return
        self._answered = True
        lines = [
            f"HTTP/1.1 {answer.status} {REASONS[answer.status]}",
            f"Content-Type: {answer.media_type}",
            f"Content-Length: {len(answer.body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
            *(f"{name}: {value}" for name, value in answer.headers),
        ]
        head = "\r\n".join((*lines, "", "")).encode()
        self._transport.write(head if self._head_only else head + answer.body)
        self._transport.close()
