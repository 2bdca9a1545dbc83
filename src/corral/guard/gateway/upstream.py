"""Connections to the inference server: a keep-alive pool, and one answer at a time on each."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from corral.guard.gateway.outbox import Outbox
from corral.policy.model import Upstream

_KEEP_ALIVE_SHARE = 0.6
"""A server's idle connection is used for this share of the time it promises to keep it: a race less."""

_DEFAULT_KEEP_ALIVE = 4.0
"""Seconds for servers that promise nothing; llama-server closes after five."""


_MAX_HEAD = 64 * 1024
"""The longest head of an answer, in bytes."""


_MAX_RETRY_AFTER = 6
"""Digits of the longest Retry-After that is passed on."""


FULL = "all connections to the server are in use"
"""Why there is no connection, where the server is not at fault."""


class AnswerReader(Protocol):
    """Who reads an answer. After `answer_ended` or `answer_failed` the connection calls no more."""

    def answer_began(self, status: int, content_type: bytes, length: int | None) -> None:
        """The head is there; `length` is None where the body's end will be found by its framing."""

    def answer_body(self, data: bytes) -> None:
        """A piece of the body is there."""

    def answer_flush(self) -> None:
        """All that one read brought has been handed over."""

    def answer_ended(self) -> None:
        """The answer is complete."""

    def answer_failed(self, reason: str, *, untouched: bool) -> None:
        """The connection broke; `untouched` if it was an idle one that had brought no byte of this answer."""


class UpstreamConnection:
    """One connection to the server; an `asyncio.Protocol` by its methods."""

    def __init__(self, pool: "UpstreamPool") -> None:
        self._pool = pool
        self._outbox = pool.outbox
        self._parser = httptools.HttpResponseParser(self)
        self._pending = b""
        self._paused = False
        self._used = False
        self._began = False
        self._head_size = 0
        self._silent = 0
        self._heard = False
        self._in_answer = False
        self._complete = False
        self._poisoned = False
        self._reusable = False
        self._content_type = b""
        self._length: int | None = None
        self._chunked = False
        self.retry_after = b""
        self._keep_alive = _DEFAULT_KEEP_ALIVE
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.reader: AnswerReader | None = None
        self.expires = 0.0
        self.requests_left = 1 << 30

    def send(self, reader: AnswerReader, request: bytes) -> None:
        """Send a whole request; `reader` gets the answer."""
        self.reader = reader
        self._began = False
        self._complete = False
        self._in_answer = False
        self._pending = request
        self._outbox.add(self)

    def flush(self) -> None:
        """Send the request that waits to be sent."""
        pending, self._pending = self._pending, b""
        if pending and not self.transport.is_closing():
            self.transport.write(pending)

    def pause(self) -> None:
        """Stop reading: the client does not keep up."""
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def abandon(self) -> None:
        """Close at once: the server sees its client gone, and frees the slot."""
        self.reader = None
        self._pending = b""
        self.transport.abort()
        self._pool.lost(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what the server sent. Bytes that no request asked for end the connection."""
        reader = self.reader
        if reader is None:
            self.transport.abort()
            return
        self._began = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"the server's answer is not valid HTTP: {error.__context__ or error}")
            return
        if self.reader is not reader:
            return
        # llhttp is silent until a field has ended: reads that it says nothing of are a head without end.
        self._silent = 0 if self._heard else self._silent + len(data)
        self._heard = False
        if self._silent > _MAX_HEAD:
            self._fail("the head of the server's answer is too long")
            return
        reader.answer_flush()
        if self.reader is reader and self._complete:
            self._end(reader)

    def _end(self, reader: AnswerReader) -> None:
        """Give the connection back before the reader is told: the next request may want it."""
        self.reader = None
        self._used = True
        self.resume()
        # An answer that came before its request was sent whole: the rest would be read as the next one.
        unsent = self._pending or self.transport.get_write_buffer_size()
        if self._reusable and not self._poisoned and not unsent:
            self._pool.give_back(self, self._keep_alive)
        else:
            self._pool.discard(self)
        reader.answer_ended()

    def eof_received(self) -> bool:
        """Close: a server that will say no more is of no use."""
        return False

    def pause_writing(self) -> None:
        """Nothing: a request is written whole, and bounded."""

    def resume_writing(self) -> None:
        """Nothing: see `pause_writing`."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the reader, if an answer was under way."""
        self._pool.lost(self)
        reader, self.reader = self.reader, None
        if reader is None:
            return
        if self._in_answer and exc is None and self._length is None and not self._chunked:
            reader.answer_ended()
        else:
            reader.answer_failed("the server closed the connection", untouched=self._used and not self._began)

    def _fail(self, reason: str) -> None:
        reader, self.reader = self.reader, None
        self.transport.abort()
        if reader is not None:
            reader.answer_failed(reason, untouched=False)

    # llhttp's callbacks

    def on_message_begin(self) -> None:
        """Forget the answer before. A second answer to one request is nobody's: the connection is not used again."""
        self._poisoned = self._complete
        self.retry_after = b""
        self._in_answer = False
        self._head_size = 0
        self._content_type = b""
        self._length = None
        self._chunked = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note the few headers that matter."""
        self._head_size += len(name) + len(value) + 4
        if self._head_size > _MAX_HEAD:
            self._fail("the head of the server's answer is too long")
            return
        name = name.lower()
        if name == b"content-type":
            self._content_type = value
        elif name == b"content-length":
            self._length = int(value)
        elif name == b"transfer-encoding":
            self._chunked = True
        elif name == b"retry-after":
            self.retry_after = value if len(value) <= _MAX_RETRY_AFTER and value.isdigit() else b""
        elif name == b"keep-alive":
            self._note_keep_alive(value)

    def _note_keep_alive(self, value: bytes) -> None:
        for part in value.split(b","):
            word, _, number = part.strip().partition(b"=")
            with suppress(ValueError):
                if word == b"timeout":
                    self._keep_alive = int(number) * _KEEP_ALIVE_SHARE
                elif word == b"max":
                    self.requests_left = int(number)

    def on_headers_complete(self) -> None:
        """Hand the head over."""
        self._heard = True
        status = self._parser.get_status_code()
        if status < 100:
            self._fail("the server's answer is not valid HTTP: its status is no status")
        elif status >= 200 and self.reader is not None and not self._complete:
            self._in_answer = True
            self.reader.answer_began(status, self._content_type, self._length)

    def on_body(self, data: bytes) -> None:
        """Hand a piece of the body over."""
        self._heard = True
        if self.reader is not None and self._in_answer and not self._complete:
            self.reader.answer_body(data)

    def on_message_complete(self) -> None:
        """Note the end; an interim answer (1xx) ends nothing."""
        if self._parser.get_status_code() >= 200:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()


class UpstreamPool:
    """Keep-alive connections to one server. Most recently used first; at most `max_connections` are open at once."""

    def __init__(self, upstream: Upstream, loop: asyncio.AbstractEventLoop, outbox: Outbox) -> None:
        self.outbox = outbox
        self._upstream = upstream
        self._loop = loop
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        parts = urlsplit(upstream.url)
        self._socket = upstream.url.removeprefix("unix:").removeprefix("//") if parts.scheme == "unix" else None
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self.host_header = b"localhost" if self._socket else parts.netloc.rpartition("@")[2].encode()

    def reload(self, upstream: Upstream) -> None:
        """Take other bounds for the same server."""
        self._upstream = upstream

    @property
    def open_connections(self) -> int:
        """How many connections to the server are open or being opened."""
        return len(self._open) + len(self._opening)

    @property
    def full(self) -> bool:
        """Whether there is no connection to be had: all are in use, and no more may be opened."""
        return not self._idle and self.open_connections >= self._upstream.max_connections

    def idle(self) -> UpstreamConnection | None:
        """Take an idle connection that the server will still know, if there is one."""
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if connection.expires > now and not connection.transport.is_closing():
                return connection
            self.discard(connection)
        return None

    def connect(self, ready: Callable[[UpstreamConnection | None, str], None]) -> "asyncio.Task[None] | None":
        """Open a connection; `ready` gets it, or None and the reason. Cancelling the task calls nobody."""
        if len(self._open) + len(self._opening) >= self._upstream.max_connections:
            ready(None, FULL)
            return None
        task = self._loop.create_task(self._connect(ready))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return task

    async def _connect(self, ready: Callable[[UpstreamConnection | None, str], None]) -> None:
        def build() -> asyncio.BaseProtocol:
            return cast("asyncio.BaseProtocol", UpstreamConnection(self))

        try:
            async with asyncio.timeout(self._upstream.connect_timeout):
                if self._socket:
                    _, protocol = await self._loop.create_unix_connection(build, self._socket)
                else:
                    _, protocol = await self._loop.create_connection(build, self._host, self._port)
        except TimeoutError:
            ready(None, "the server did not accept a connection in time")
        except OSError as error:
            ready(None, f"the server cannot be reached: {error.strerror or error}")
        else:
            connection = cast("UpstreamConnection", protocol)
            self._open.add(connection)
            ready(connection, "")

    def give_back(self, connection: UpstreamConnection, keep_alive: float) -> None:
        """Keep a connection for the next request, as long as the server promises to."""
        connection.requests_left -= 1
        if connection.requests_left <= 1:
            self.discard(connection)
            return
        connection.expires = self._loop.time() + keep_alive
        self._idle.append(connection)

    def discard(self, connection: UpstreamConnection) -> None:
        """Close a connection that is not used again; at once there is room for another."""
        connection.transport.abort()
        self.lost(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """Forget a closed connection."""
        self._open.discard(connection)
        with suppress(ValueError):
            self._idle.remove(connection)

    def prune(self, now: float) -> None:
        """Close idle connections whose time is over; each holds a thread of llama-server."""
        for connection in [c for c in self._idle if c.expires <= now]:
            self.discard(connection)

    async def close(self) -> None:
        """Close every connection."""
        for task in list(self._opening):
            task.cancel()
        for connection in list(self._open):
            connection.transport.abort()
        self._idle.clear()
        await asyncio.sleep(0)
