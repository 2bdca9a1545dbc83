"""Reads a client's requests: llhttp's callbacks, the bounds of what may arrive, and the requests sent ahead."""

import logging
from collections import deque
from typing import Final, Protocol

import httptools

from corral.guard.gateway.incoming import Incoming, KnownHead, known_head
from corral.policy.model import Bounds

_log = logging.getLogger("corral.guard")

_AHEAD: Final = 64
"""Most requests that a client may send ahead of their answers."""


class Taker(Protocol):
    """Who takes the requests that a reader reads."""

    @property
    def ready(self) -> bool:
        """Whether the next request may begin: none is under way, and the client reads its answers."""
        ...

    @property
    def wants_body(self) -> bool:
        """Whether the body of the request under way is waited for, and not thrown away."""
        ...

    def begin(self, incoming: Incoming) -> None:
        """A request's head is there. Called only while `ready`."""
        ...

    def complete(self, incoming: Incoming) -> None:
        """The request under way is there whole."""
        ...

    def head_begun(self) -> None:
        """The first bytes of a request have come, and nothing else is under way."""
        ...

    def discard(self, size: int) -> None:
        """Bytes came that nobody wants."""
        ...

    def body_too_long(self) -> None:
        """The body of the request under way is longer than it may be."""
        ...

    def break_off(self, kind: str, message: str) -> None:
        """What comes cannot be framed, or is too much: refuse, and read no more."""
        ...

    def overrun(self) -> None:
        """More was sent ahead than any client has a reason to: close now."""
        ...


class RequestReader:
    """Reads one connection's bytes. `current` is the request under way, set by its taker; `incoming` the newest."""

    def __init__(self, bounds: Bounds, taker: Taker) -> None:
        self._bounds = bounds
        self._taker = taker
        self._parser = httptools.HttpRequestParser(self)
        self._known: KnownHead | None = None
        self._begun = 0
        self._in_head = True
        self._unframed = 0
        self._silent = 0
        self._heard = False
        self._trailers = 0
        self._most_unframed = bounds.max_head + 8 * bounds.max_body
        self._read_size = 0
        self._ahead: deque[Incoming] = deque()
        self._ahead_bytes = 0
        self.incoming = _NOTHING
        self.current: Incoming | None = None

    def reload(self, bounds: Bounds) -> None:
        """Take other bounds, between two requests."""
        self._bounds = bounds
        self._most_unframed = bounds.max_head + 8 * bounds.max_body
        self._known = None

    @property
    def in_head(self) -> bool:
        """Whether a request has begun whose head is not there yet."""
        return self._in_head and self.incoming.target != b""

    @property
    def waiting(self) -> int:
        """How many requests were sent ahead."""
        return len(self._ahead)

    def feed(self, data: bytes) -> None:
        """Read on; what is found is told to the taker."""
        taker = self._taker
        known = self._known
        if (
            known is not None
            and len(data) == known.total
            and self.incoming.complete
            and taker.ready
            and data.startswith(known.head)
        ):
            incoming = self.incoming = known.again(data)
            taker.begin(incoming)
            if self.current is incoming:
                taker.complete(incoming)
            return
        was_in_head = self._in_head
        was_complete = self.incoming.complete
        begun = self._begun
        self._read_size = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            taker.break_off("bad_http", "Protocol upgrades are not served; send plain HTTP/1.1.")
        except httptools.HttpParserCallbackError as error:
            _log.error("A request failed inside the guard", exc_info=error.__context__)
            taker.break_off("internal", "The guard failed while admitting this request.")
        except httptools.HttpParserError as error:
            taker.break_off("bad_http", f"The request is not valid HTTP/1.1: {error}.")
        incoming = self.incoming
        if not incoming.complete:
            self._bound_unfinished(was_in_head, self._begun != begun)
        elif was_complete and self._begun == begun + 1:
            self._known = known_head(incoming, data)

    def take_ahead(self) -> Incoming | None:
        """Take the next request that was sent ahead; None where there is none, or where it is too long."""
        if not self._ahead:
            return None
        incoming = self._ahead.popleft()
        self._ahead_bytes -= incoming.size
        if incoming.size > self._bounds.max_body:
            self._taker.overrun()
            return None
        return incoming

    def forget(self) -> None:
        """Forget what was sent ahead: its client has left."""
        self._ahead.clear()

    def _bound_unfinished(self, was_in_head: bool, began: bool) -> None:  # noqa: FBT001  # on the hot path
        """Bound what a request brings before it is complete: its head, and chunk framing that carries no body.

        What a read brought before a request `began` in it belongs to the requests before. llhttp is silent until a
        field has ended, so reads that it says nothing of are counted too.
        """
        self._silent = 0 if self._heard else self._silent + self._read_size
        self._heard = False
        if began:
            if self.current is None:
                self._taker.head_begun()
        elif was_in_head or not self._in_head:
            self._unframed += self._read_size
        if (self._unframed if self._in_head else self._silent) > self._bounds.max_head:
            self._taker.break_off("headers_too_large", f"The head is longer than {self._bounds.max_head} bytes.")
        elif self._unframed > self._most_unframed:
            self._taker.break_off("payload_too_large", "The request is longer than its body accounts for.")

    # llhttp's callbacks

    def on_message_begin(self) -> None:
        """Start a new request."""
        self.incoming = Incoming({})
        self._begun += 1
        self._in_head = True
        self._unframed = 0
        self._trailers = 0
        self._silent = 0

    def on_url(self, target: bytes) -> None:
        """Collect the request target."""
        self.incoming.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header field; trailers are passed over."""
        if self._in_head:
            self.incoming.add_field(name, value)
            return
        self._trailers += len(name) + len(value) + 4
        if self._trailers > self._bounds.max_head:
            self._taker.break_off("headers_too_large", f"The trailers are longer than {self._bounds.max_head} bytes.")

    def on_headers_complete(self) -> None:
        """Decide by the head, unless an earlier request is still under way."""
        self._in_head = False
        incoming = self.incoming
        parser = self._parser
        incoming.method = parser.get_method()
        if parser.should_upgrade():
            incoming.fault = "Protocol upgrades are not served; send plain HTTP/1.1."
        if parser.get_http_version() != "1.1":
            incoming.http10 = True
        if not parser.should_keep_alive():
            incoming.keep_alive = False
        incoming.check_framing(self._bounds.max_headers, self._bounds.max_head)
        if self._taker.ready:
            self._taker.begin(incoming)
            return
        self._ahead.append(incoming)
        if len(self._ahead) > _AHEAD:
            self._taker.overrun()

    def on_body(self, data: bytes) -> None:
        """Collect the body within its bound, or throw it away if its request is refused."""
        self._heard = True
        incoming = self.incoming
        if incoming is self.current:
            if not self._taker.wants_body:
                self._taker.discard(len(data))
                return
        else:
            self._ahead_bytes += len(data)
            if self._ahead_bytes > self._bounds.max_body + self._bounds.max_head:
                self._taker.overrun()
                return
        incoming.body.append(data)
        incoming.size += len(data)
        if incoming is self.current and incoming.size > self._bounds.max_body:
            self._taker.body_too_long()

    def on_message_complete(self) -> None:
        """Go on with a request that is all there."""
        incoming = self.incoming
        incoming.complete = True
        if incoming is self.current:
            self._taker.complete(incoming)


_NOTHING: Final = Incoming({})
_NOTHING.complete = True
"""What has arrived on a connection before its first request."""
