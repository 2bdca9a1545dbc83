"""A client's connection: the way of its requests, the order of their answers, and the time that each step may take."""

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Final, cast

from corral.dialects.model import ErrorStyle, RouteClass
from corral.guard.caller import Session, Visit
from corral.guard.cors import is_preflight
from corral.guard.gateway.exchange import Exchange
from corral.guard.gateway.health import health_answer
from corral.guard.gateway.incoming import TOO_LARGE, Incoming
from corral.guard.gateway.reader import RequestReader
from corral.guard.refusal import Refusal, drained

if TYPE_CHECKING:
    from corral.guard.gateway.core import Core
    from corral.guard.gateway.listener import Listener

_log = logging.getLogger("corral.guard")

_DISCARD: Final = 64 * 1024
"""How much of a refused request's body is read and thrown away, in bytes, before its connection is closed instead."""

_LINGER: Final = 2.0
"""Seconds a refused client gets to read the answer before a connection with unread bytes is reset."""

_AT_ONCE: Final = 64 * 1024
"""Bytes that are written at once before a turn is over: who does not read them must be noticed."""

# Enum members are looked up once: in CPython 3.11 an access through the class takes 0.9 µs, a global 0.02 µs.
_HEALTH: Final = RouteClass.HEALTH
_OPENAI: Final = ErrorStyle.OPENAI
_LLAMACPP: Final = ErrorStyle.LLAMACPP


class ClientConnection:
    """One client's connection. Requests are answered in the order they came; one is under way at a time.

    An `asyncio.Protocol` by its methods. While the client does not read its answers it is *stalled*: nothing more is
    read from it or begun for it, its server is held back, and it has the policy's `write_timeout` to go on.
    """

    def __init__(self, core: "Core", listener: "Listener") -> None:
        self._core = core
        self._listener = listener
        self._policy = core.policy
        self._bounds = core.policy.bounds
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._reader = RequestReader(core.policy.bounds, self)
        self._session: Session
        self._counted_as = ""
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._visit: Visit | None = None
        self._exchange: Exchange | None = None
        self._discarded = 0
        self._lingering = False
        self._due = math.inf
        self.stalled = False
        self.cors = b""
        self._request_id = ""
        self._arrived = 0.0
        self._wall = 0.0
        self.peer_host = ""
        self.deadline = math.inf
        self.http10 = False
        self.head_only = False
        self.keep_alive = True

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open a session, unless there are too many connections already."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.peer_host = peer[0] if isinstance(peer, tuple) else ""
        self._session = self._core.pipeline.session(self.peer_host)
        self._counted_as = self._session.peer
        if not self._listener.opened(self, self._counted_as):
            self._transport.abort()
            return
        self.expect_by(self._core.now() + self._bounds.head_timeout)

    def eof_received(self) -> bool:
        """Close when a client says that it will send no more: most that do have gone."""
        self.flush()
        return False

    def data_received(self, data: bytes) -> None:
        """Read on; what the reader finds comes back through `begin`, `complete` and the like."""
        if self._lingering:
            self.discard(len(data))
        else:
            self._reader.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Cancel what is under way: nobody reads the answer."""
        self._listener.closed(self, self._counted_as)
        self._reader.forget()
        self._pending.clear()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_left()

    def pause_writing(self) -> None:
        """Hold the server back, and the client too: it does not read as fast as it is written to."""
        self.stalled = True
        self.deadline = self._core.now() + self._bounds.write_timeout
        if not self._lingering and not self._transport.is_closing():
            self._transport.pause_reading()
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        """Let the server go on, and the client."""
        self.stalled = False
        self.deadline = self._due
        if self._transport.is_closing():
            return
        if not self._lingering:
            self._transport.resume_reading()
        if self._exchange is not None:
            self._exchange.resume()
        elif self._reader.current is None and not self._lingering:
            self._rest()

    def reloaded(self) -> None:
        """Follow a new policy: now, if nothing is under way, else with the next request."""
        if self._reader.current is None:
            self._follow()

    def _follow(self) -> None:
        """Take the bounds of the policy in force, and find out anew who this is: the next request is judged by it."""
        self._policy = policy = self._core.policy
        self._bounds = policy.bounds
        self._reader.reload(policy.bounds)
        self._session = self._core.pipeline.session(self.peer_host)

    @property
    def exchange(self) -> Exchange | None:
        """The request that waits for a place or has one."""
        return self._exchange

    # a request's way, as the reader finds it

    @property
    def ready(self) -> bool:
        """Whether the next request may begin."""
        return self._reader.current is None and not self.stalled and not self._lingering

    @property
    def wants_body(self) -> bool:
        """Whether the body of the request under way is waited for."""
        return self._visit is not None

    def head_begun(self) -> None:
        """Give the head the time that it may take."""
        self.expect_by(self._core.now() + self._bounds.head_timeout)

    def begin(self, incoming: Incoming) -> None:
        """Decide by the head: refuse, or go on to the body."""
        core = self._core
        if self._policy is not core.policy:
            self._follow()
        self._reader.current = incoming
        self._visit = None
        self._discarded = 0
        self._arrived = now = core.now()
        self._wall = now + core.wall_offset
        self._request_id = core.new_request_id()
        self.http10 = incoming.http10
        self.head_only = incoming.method == b"HEAD"
        self.keep_alive = incoming.keep_alive and not core.draining
        if core.cors.is_on:
            self.cors = core.cors.lines(incoming.head.get(b"origin"))
        if incoming.fault:
            self.break_off("headers_too_large" if incoming.fault == TOO_LARGE else "bad_http", incoming.fault)
            return
        if incoming.method == b"OPTIONS" and self._asks_for_a_page(incoming):
            self._answer_preflight(incoming)
            return
        try:
            outcome = self._enter(incoming, now)
        except Exception:  # noqa: BLE001  # fail closed: what cannot be judged is not served
            _log.exception("A request failed inside the guard")
            self.break_off("internal", "The guard failed while admitting this request.")
            return
        if type(outcome) is Refusal:
            self._refuse_head(incoming, outcome)
            return
        assert isinstance(outcome, Visit)
        if core.drained and outcome.route.kind is not _HEALTH:
            self._refuse_head(incoming, core.refuse_drained(outcome, now))
            return
        self._visit = outcome
        if incoming.content_length() > self._bounds.max_body:
            self.body_too_long()
            return
        self.expect_by(now + self._bounds.body_timeout)
        if b"expect" in incoming.head and not incoming.complete:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _enter(self, incoming: Incoming, now: float) -> Visit | Refusal:
        """Ask the pipeline whether a request may go on, by its head."""
        return self._core.pipeline.enter(incoming.method, incoming.target, incoming.head, self._session, now)

    def _asks_for_a_page(self, incoming: Incoming) -> bool:
        """Tell whether an OPTIONS request is a preflight, which the guard answers by itself."""
        return is_preflight(incoming.head)

    def _answer_preflight(self, incoming: Incoming) -> None:
        """Tell a browser whether a page may make a request. That costs no quota; it is logged where it is refused."""
        answer = self._core.cors.preflight(incoming.head)
        if type(answer) is Refusal:
            self._refuse_head(incoming, answer)
            return
        assert isinstance(answer, bytes)
        self.write(b"%b%b%b\r\n" % (answer, self._core.date, b"" if self.keep_alive else b"Connection: close\r\n"))
        if not self.keep_alive:
            self._linger()

    def _refuse_head(self, incoming: Incoming, refusal: Refusal) -> None:
        """Refuse before the body is read. A short body is read over, so that the connection can be kept."""
        if not incoming.complete and (
            b"expect" in incoming.head or b"transfer-encoding" in incoming.head or incoming.content_length() > _DISCARD
        ):
            self.keep_alive = False
        self._refuse_and_record(incoming, refusal)
        self.expect_by(self._arrived + self._bounds.body_timeout)
        if not self.keep_alive:
            self._linger()

    def body_too_long(self) -> None:
        """Refuse the request under way for the length of its body."""
        visit = self._visit
        assert visit is not None
        self._visit = None
        self.break_off(
            "payload_too_large",
            f"The body is longer than {self._bounds.max_body} bytes.",
            style=visit.route.errors,
            route=visit.route.name,
        )

    def complete(self, incoming: Incoming) -> None:
        """Have the whole request: prepare it, and hand it to an exchange."""
        visit = self._visit
        if visit is None:
            if not self._lingering:
                self._rest()
            return
        core = self._core
        if visit.route.kind is _HEALTH:
            self._answer_health(incoming)
            return
        try:
            prepared = visit.pipeline.prepare(visit, incoming.head, incoming.take_body(), core.now())
        except Exception:  # noqa: BLE001  # fail closed: what cannot be judged is not served
            _log.exception("A request failed inside the guard")
            prepared = Refusal("internal", "The guard failed while admitting this request.", visit.route.errors,
                               visit.route.name, retry_after=5.0)  # fmt: skip
        if type(prepared) is Refusal:
            self._refuse_and_record(incoming, prepared)
            self.exchange_ended(reusable=self.keep_alive)
            return
        assert isinstance(prepared, bytes)
        exchange = self._exchange = Exchange(
            core, self, visit, request_id=self._request_id, arrived=self._arrived, wall=self._wall
        )
        exchange.bytes_in = incoming.size
        if core.traces is not None:
            exchange.trace = core.traces.begin(incoming.head, self.peer_host)
        self.expect_by(self._arrived + self._bounds.total_timeout)
        exchange.start(prepared)

    def _answer_health(self, incoming: Incoming) -> None:
        def answer(status: int) -> None:
            if self._transport.is_closing() or self._reader.current is not incoming:
                return
            if status == 200 or status == 503:
                lines = self._core.date + self.cors
                self.write(health_answer(status, lines, keep_alive=self.keep_alive, body=not self.head_only))
            else:
                self.refuse(Refusal("upstream_unavailable", "The server does not answer.", _LLAMACPP, "health",
                                    retry_after=2.0))  # fmt: skip
            self.exchange_ended(reusable=self.keep_alive)

        if self._core.drained:
            self.refuse(drained(_LLAMACPP, "health"))
            self.exchange_ended(reusable=self.keep_alive)
            return
        self._core.health.ask(self._core.now(), answer)

    # what an exchange asks for

    def write(self, data: bytes) -> None:
        """Send bytes to the client, at the end of this turn of the loop."""
        if not self._pending:
            self._core.outbox.add(self)
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size > _AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Send what was written."""
        pending = self._pending
        if pending:
            data = pending[0] if len(pending) == 1 else b"".join(pending)
            pending.clear()
            self._pending_size = 0
            if not self._transport.is_closing():
                self._transport.write(data)

    def _close(self) -> None:
        """Send what was written, and close."""
        self.flush()
        self._transport.close()

    def refuse(self, refusal: Refusal) -> int:
        """Send a refusal as the answer to the current request. Returns its status."""
        core = self._core
        status, start, rest = core.refusals.render(refusal, close=not self.keep_alive)
        if self.head_only:
            rest = rest[: rest.index(b"\r\n\r\n") + 4]
        self.write(b"%b%b%bX-Request-Id: %b\r\n%b" % (start, core.date, self.cors, self._request_id.encode(), rest))
        return status

    def exchange_ended(self, *, reusable: bool) -> None:
        """Go on to the next request, or close."""
        self._exchange = None
        if not reusable:
            self._close()
            self.expect_by(self._core.now() + self._bounds.write_timeout)
            return
        self._rest()

    def expect_by(self, deadline: float) -> None:
        """Set the time by which something must happen; for a stalled client, from when it reads on."""
        self._due = deadline
        if not self.stalled:
            self.deadline = deadline

    def _rest(self) -> None:
        """Have answered a request: begin the next one that is there, or wait for it."""
        self._reader.current = None
        self._visit = None
        self.cors = b""
        self._request_id = ""
        self._arrived = 0.0
        if self._core.draining and not self._reader.waiting:
            self._close()
        while self.ready and not self._transport.is_closing():
            incoming = self._reader.take_ahead()
            if incoming is None:
                break
            self.begin(incoming)
            self._finish_if_complete(incoming)
        if self._at_rest:
            bounds = self._bounds
            patience = bounds.idle_timeout if self._reader.incoming.complete else bounds.head_timeout
            self.expect_by(self._core.now() + patience)

    @property
    def _at_rest(self) -> bool:
        # Apart: mypyc takes `current` to be None still where `_rest` has set it so, whatever was called since.
        return self._reader.current is None and not self._lingering

    def _finish_if_complete(self, incoming: Incoming) -> None:
        """Go on with a request that had arrived whole before its turn came."""
        if incoming.complete and self._reader.current is incoming and not self._lingering:
            self.complete(incoming)

    # endings

    def overdue(self) -> None:
        """End what has lasted too long: an idle connection silently, a crawling request with 408."""
        if self._exchange is not None and not self.stalled:
            self._exchange.timed_out()
        elif self._lingering or self.stalled or self._transport.is_closing():
            self._transport.abort()
        elif self._reader.current is not None and self._visit is not None and not self._reader.current.complete:
            self.break_off("timeout", "The body took too long to arrive.")
        elif self._reader.current is None and self._reader.in_head:
            self._request_id = self._core.new_request_id()
            self.break_off("timeout", "The head took too long to arrive.")
        else:
            self._transport.abort()

    def drain(self) -> None:
        """Close as soon as nothing is under way."""
        if self._reader.current is None:
            self._close()

    def overrun(self) -> None:
        """Close now, unless a last answer is on its way."""
        if not self._lingering:
            self._transport.abort()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    def discard(self, size: int) -> None:
        """Count bytes that are thrown away, and give up on a client that sends too many."""
        self._discarded += size
        if self._discarded > _DISCARD:
            self._transport.abort() if self._lingering else self._linger()

    def break_off(self, kind: str, message: str, *, style: ErrorStyle = _OPENAI, route: str = "unknown") -> None:
        """Refuse and close: what follows on this connection cannot be framed, or is not worth reading."""
        if self._transport.is_closing() or self._lingering:
            return
        current = self._reader.current
        if self._exchange is not None or (self._visit is not None and current is not None and current.complete):
            # An answer is under way, or will be; an error would be read as part of it, or in its stead.
            self._transport.abort()
            return
        if not self._request_id:
            self._request_id = self._core.new_request_id()
        if not self._arrived:
            self._arrived = self._core.now()
            self._wall = self._arrived + self._core.wall_offset
        self.keep_alive = False
        self._reader.current = self._visit = None
        self._refuse_and_record(self._reader.incoming, Refusal(kind, message, style, route))
        self._linger()

    def _linger(self) -> None:
        """Stop writing, and read on for a moment: closing over unread bytes would reset the answer away."""
        self._lingering = True
        self._discarded = 0
        self.flush()
        self.expect_by(self._core.now() + _LINGER)
        if self._transport.is_closing():
            return
        if self.stalled:
            self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _refuse_and_record(self, incoming: Incoming, refusal: Refusal) -> None:
        status = self.refuse(refusal)
        self._core.refused(self._session, incoming, refusal, status, wall=self._wall, arrived=self._arrived,
                           request_id=self._request_id)  # fmt: skip
