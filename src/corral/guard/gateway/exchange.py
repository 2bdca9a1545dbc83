"""One admitted request: its wait for a place, its trip to the server, and the relay of the answer."""

import math
from typing import TYPE_CHECKING, Protocol

from corral.dialects.model import ErrorStyle, RouteClass, Usage
from corral.dialects.streams import STREAM_TYPES
from corral.engine.decision import NOTHING
from corral.engine.fairqueue import service
from corral.guard.answer_usage import read_json
from corral.guard.caller import Visit
from corral.guard.gateway.settlement import check_prompt, settle_tokens, usage_of, watched, with_counted
from corral.guard.gateway.upstream import FULL, UpstreamConnection
from corral.guard.refusal import Refusal, no_place
from corral.guard.shadow import Shadowed, told
from corral.policy.notation import describe_seconds

if TYPE_CHECKING:
    from corral.dialects.event_stream import EventStream
    from corral.guard.gateway.core import Core
    from corral.guard.gateway.count import Count
    from corral.guard.gateway.upstreams import UpstreamServer
    from corral.guard.traces.context import TraceContext

_WHOLE = 1024 * 1024
"""The longest plain answer that is kept, in bytes, to read its usage from."""


_BATCH = 32
"""So many tokens of a stream are charged at once to the client's share of the server."""

_RETRY_WHILE_LOADING = b"2"
"""Seconds that a client is asked to wait for a server that does not say: it may still be loading its model."""

_WRONG_KEY = "the server does not accept the guard's own key"

_NOT_ITS_OWN = "No answer: the server may not use this model, which is another server's."
"""What Ollama's 401 means; its body holds an invitation to the operator's account."""

_STALE = 1.0
"""Seconds after which a server that closes a connection cannot have done so before it had the request."""

# Enum members are looked up once: in CPython 3.11 an access through the class takes 0.9 µs, a global 0.02 µs.
_TOKENISE = RouteClass.TOKENISE
_ANTHROPIC = ErrorStyle.ANTHROPIC


class Client(Protocol):
    """What an exchange needs of the connection whose request it is."""

    http10: bool
    head_only: bool
    keep_alive: bool
    stalled: bool
    cors: bytes

    def write(self, data: bytes) -> None:
        """Send bytes of the answer."""

    def refuse(self, refusal: Refusal) -> int:
        """Send a refusal as the answer. Returns the status."""

    def exchange_ended(self, *, reusable: bool) -> None:
        """The answer is complete, or cut where `reusable` is false."""

    def expect_by(self, deadline: float) -> None:
        """Call `Exchange.timed_out` unless a later deadline is set before."""


class Exchange:
    """One request between admission and settlement. `end` is reached exactly once, on every path."""

    __slots__ = (
        "_answer_length", "_body", "_charged", "_chunked", "_client", "_connection", "_core", "_counting", "_ended",
        "_events", "_first_byte", "_head_sent", "_held_back", "_kept", "_kept_size", "_last", "_out", "_pieces",
        "_place_at", "_queued_at", "_quota", "_reached", "_retried", "_sent", "_settled", "_status", "_stream",
        "_unchecked", "arrived", "assigned", "bytes_in", "request_id", "server", "tokens", "trace", "visit", "wall",
    )  # fmt: skip

    def __init__(
        self, core: "Core", client: Client, visit: Visit, *, request_id: str, arrived: float, wall: float
    ) -> None:
        self._core = core
        self._client = client
        self.visit = visit
        self.request_id = request_id
        self.arrived = arrived
        self.wall = wall
        self.bytes_in = 0
        self.trace: TraceContext | None = None
        self._last = arrived + core.policy.bounds.total_timeout
        self._body = b""
        self._counting: Count | None = None
        self.server: UpstreamServer | None = None
        self.tokens = 1.0
        """The tokens that it may use at most, as the servers' loads count them."""
        self.assigned = False
        """Whether its server counts it among those that it works on."""
        self._connection: UpstreamConnection | None = None
        self._queued_at = 0.0
        self._place_at = 0.0
        self._first_byte = 0.0
        self._ended = False
        self._settled = False
        self._quota = b""
        self._retried = False
        self._reached = False
        self._held_back = False
        self._head_sent = False
        self._chunked = False
        self._stream = False
        self._events: EventStream | None = None
        self._pieces: list[bytes] = []
        self._unchecked = False
        self._charged = 0
        self._status = 0
        self._answer_length: int | None = None
        self._out: list[bytes] = []
        self._sent = 0
        self._kept: list[bytes] = []
        self._kept_size = 0

    def start(self, body: bytes) -> None:
        """Go on to the server, or queue for a place there. `body` is what the pipeline made of the client's."""
        held = self.visit.tokens
        if held is not None and held.uncounted:
            self._have_counted(body)
            return
        core = self._core
        self._body = body
        now = self._queued_at = core.now()
        if self.visit.needs_place:
            core.enter(self, now)
        else:
            self.run()

    def _have_counted(self, body: bytes) -> None:
        """Have the server count the prompt first; see `counted`."""
        self._body = body
        counter = self.visit.route.counter
        assert counter is not None
        counting = self._core.counting.count(self, counter, body)
        if counting is not None and not self._ended:
            self._counting = counting

    def counted(self, tokens: int | None, *, asked: bool) -> None:
        """Go on with a prompt of so many tokens; None is as it is estimated. `asked`: the server has worked for it.

        What it took as a request is then not given back, whatever becomes of it, or refused requests could have the
        server count without end.
        """
        if self._ended:
            return
        self._counting = None
        if asked:
            self.visit.reservation = NOTHING
        body, self._body = self._body, b""
        outcome = self.visit.pipeline.counted(self.visit, body, tokens, self._core.now())
        if isinstance(outcome, Refusal):
            self._refuse(outcome, "refused")
        else:
            self.start(outcome)

    def run(self) -> None:
        """Have a place: send the request, unless its client has left meanwhile, or it runs already (in shadow)."""
        if self._ended or self._place_at:
            return
        server = self.server
        if server is None or not server.load.usable:
            server = self._core.find_server(self)
            if server is None:
                return
        self._place_at = self._core.now()
        connection = server.pool.idle()
        if connection is not None:
            self._send(connection, server)
            return
        self._client.expect_by(self._last)
        server.pool.connect(self.connected)

    def connected(self, connection: UpstreamConnection | None, reason: str) -> None:
        """Take the connection that was asked for, or hear why there is none."""
        server = self.server
        if self._ended or server is None:
            if connection is not None:
                connection.abandon()
        elif connection is not None:
            self._send(connection, server)
        elif reason != FULL and self._core.upstreams.unreachable(server, reason) and not self._retried:
            self._retried = True  # nothing was sent: another server may have it
            self._place_at = 0.0
            self.run()
        else:
            self._fail("upstream_unavailable", reason)

    def _send(self, connection: UpstreamConnection, server: "UpstreamServer") -> None:
        self._connection = connection
        self._wait(server.settings.first_byte_timeout)
        self._reached = True
        core, body = self._core, self._body
        head = server.request_head(self.visit.route, len(body))
        if self.trace is not None and core.traces is not None and core.traces.forwards:
            head = head[:-2] + self.trace.header() + b"\r\n"
        connection.send(self, head + body)
        core.outbox.after(self)
        if self._client.stalled:
            self._held_back = True
            connection.pause()

    def _wait(self, seconds: float) -> None:
        self._client.expect_by(min(self._core.now() + seconds, self._last))

    # the answer, as the server sends it

    def answer_began(self, status: int, content_type: bytes, length: int | None) -> None:
        """Write the answer's head anew: of the server's own only its status, its type and its Retry-After pass."""
        self._first_byte = self._core.now()
        self._status = status
        self._answer_length = length
        self._judge(status)
        if self._ended:
            return
        client = self._client
        self._stream = content_type.startswith(STREAM_TYPES)
        core = self._core
        if self._stream and status == 200:
            self._events = watched(self.visit, content_type)
            self._unchecked = self.visit.tokens is not None
            if self._events is not None:
                length = None  # more may be added
        if length is not None:
            framing = b"Content-Length: %d\r\n" % length
        elif status in (204, 304):
            framing = b""
        elif client.http10:
            client.keep_alive = False
            framing = b""
        else:
            self._chunked = not client.head_only
            framing = b"Transfer-Encoding: chunked\r\n"
        if not client.keep_alive:
            framing += b"Connection: close\r\n"
        if status == 503 or status == 429:
            said = self._connection.retry_after if self._connection is not None else b""
            framing += b"Retry-After: %b\r\n" % (said or _RETRY_WHILE_LOADING)
        visit = self.visit
        if visit.cap:
            framing += b"X-Corral-Max-Tokens: %d\r\n" % visit.cap
        if visit.shadow:
            framing += b"X-Corral-Shadow: %b\r\n" % told(visit.shadow)
        self._out = [
            core.answer_start(status, content_type),
            core.date,
            framing + client.cors,
            b"X-Request-Id: %b\r\n" % self.request_id.encode(),
            self._quota or self._quota_lines(),
            b"\r\n",
        ]

    def _judge(self, status: int) -> None:
        """Look at an answer that may mean that the server is not well: errors of its own (500) need not."""
        server = self.server
        if server is None or (status <= 400 and not server.circuit.failures):
            return
        if status == 401:
            self._abandon_connection()
            if not self._core.upstreams.ask_for_keys and server.settings.api_key is None:
                # It is the client's model that is refused: that costs the client a request, and the server nothing.
                route = self.visit.route
                refusal = Refusal("upstream_unavailable", _NOT_ITS_OWN, route.errors, route.name)
                self._refuse(refusal, "upstream-failed")
                return
            self._core.upstreams.broke(server, _WRONG_KEY)
            self._fail("upstream_unavailable", _WRONG_KEY)
        elif 502 <= status <= 504:
            self._core.upstreams.suspect(server)
        elif server.circuit.failures:
            server.circuit.answered()

    def _quota_lines(self) -> bytes:
        visit = self.visit
        headers = self._core.quota_headers
        plan = visit.caller.key.plan if visit.caller.key is not None else None
        anthropic = visit.route.errors is _ANTHROPIC
        if visit.tokens is None and not anthropic:
            return headers.lines(visit.standing, plan)
        left = other = None
        if visit.tokens is not None:
            left, other = visit.tokens.left, visit.tokens.other
        return headers.full(visit.standing, left, plan, anthropic=anthropic, other=other)

    def answer_body(self, data: bytes) -> None:
        """Collect a piece of the body."""
        if self._client.head_only:
            return
        size = len(data)
        if self._stream and not self._sent:
            self._first_byte = self._core.now()
        self._sent += size
        if self._events is not None:
            self._pieces.append(data)
            return
        self._frame(data)
        self._kept.append(data)
        self._kept_size += size
        if self._kept_size > _WHOLE:
            self._kept.clear()  # too long to be read for its usage
            self._kept_size = 0

    def _frame(self, data: bytes) -> None:
        if self._chunked:
            self._out.append(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._out.append(data)

    def _take_events(self, events: "EventStream") -> bool:
        """Pass on the events that one read brought whole; tells whether any of them brought data."""
        pieces = self._pieces
        if not pieces:
            return False
        data = events.take(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        pieces.clear()
        if not data:
            return False
        self._frame(data)
        if self._unchecked:
            self._unchecked = False
            check_prompt(self.visit.pipeline.token_quota, self.visit.tokens, events, self._core.now())
        if events.counted - self._charged >= _BATCH:
            self._charge(events.counted)
        return events.speaks(data)

    def _charge(self, tokens: int) -> None:
        """Count what has passed as service that the client has had."""
        if self.visit.needs_place:
            self._core.admission.charge(self, service(0, tokens - self._charged))
        self._charged = tokens

    def answer_flush(self) -> None:
        """Send what one read brought, in one write."""
        if self._ended:
            return
        events = self._events
        if self._sent > self._core.policy.upstream.max_answer:
            self._abandon_connection()
            final = None if events is None else events.cut_off()
            if final is None and not self._head_sent:
                self._fail("upstream_unavailable", "it would be longer than the guard relays", "cut-off")
            else:
                self._cut("cut-off", final)
            return
        if events is not None:
            self._flush_events(events)
            return
        if not self._out:
            return
        connection = self._connection
        if connection is None or self._answer_length is None or self._sent < self._answer_length:
            self._wait(self._core.policy.upstream.idle_timeout)
        self._write_out()

    def _flush_events(self, events: "EventStream") -> None:
        """Send the events that one read brought. Only they reset the clock: the first counts as the first byte."""
        if self._take_events(events):
            self._wait(self._core.policy.upstream.idle_timeout)
        if events.over:
            self._abandon_connection()
            self._cut("cut-off", events.cut_off())
        elif self._out:
            self._write_out()

    def _write_out(self) -> None:
        self._head_sent = True
        data = b"".join(self._out)
        self._out.clear()
        self._client.write(data)

    def answer_ended(self) -> None:
        """Finish the answer and settle."""
        self._connection = None
        if self._events is not None and (rest := self._events.rest()):
            self._frame(rest)
        self._close_framing()
        self._ended = True
        self._core.outbox.after(self)

    def catch_up(self) -> None:
        """Do what nobody waits for: write the quota lines while the server works, settle when the answer is sent."""
        if not self._ended:
            self._quota = self._quota_lines()
            return
        if self._settled:
            return
        self._end("answered", self._status)
        self._client.exchange_ended(reusable=self._client.keep_alive)

    def _close_framing(self) -> None:
        if self._chunked:
            self._out.append(b"0\r\n\r\n")
        if self._out:
            self._write_out()

    def _complete(self, ending: str) -> None:
        """End the answer so that its framing is complete."""
        self._close_framing()
        self._end(ending, self._status)
        self._client.exchange_ended(reusable=self._client.keep_alive)

    def answer_failed(self, reason: str, *, untouched: bool) -> None:
        """Try once more where an idle connection turned out to be closed; else say what went wrong."""
        self._connection = None
        server = self.server
        if self._ended or server is None:
            return
        if untouched and not self._retried and self._core.now() - self._place_at < _STALE:
            self._retried = True
            self._reached = False
            server.pool.connect(self.connected)
            return
        self._core.upstreams.broke(server, reason)
        if self._head_sent:
            self._cut("upstream-failed", self._event_of("upstream_unavailable", reason))
        else:
            self._fail("upstream_unavailable", reason)

    # endings that are not the server's

    def pause(self) -> None:
        """Stop reading from the server: the client does not keep up."""
        self._held_back = True
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Read on."""
        if self._connection is not None:
            self._connection.resume()

    def refuse_place(self, retry_after: float, *, overdue: bool = False) -> None:
        """No place: too many wait already, or it is `overdue`, having waited. The client's quota is given back."""
        if self._ended:
            return
        core = self._core
        if core.policy.shadow and self.server is None:
            self.server = core.spare_server()
        if self._place_at or (core.policy.shadow and self.server is not None):
            self.visit.shadow += (Shadowed("overloaded", "", retry_after),)
            self.run()
            return
        self.visit.pipeline.give_back(self.visit, core.now())
        route = self.visit.route
        message = no_place(retry_after, core.policy.concurrency.max_wait if overdue else None)
        self._refuse(Refusal("overloaded", message, route.errors, route.name, retry_after=retry_after), "refused")

    def refuse_away(self, reason: str, retry_after: float) -> None:
        """No server that could answer: nothing is waited for. The client's quota is given back.

        What runs goes on, though it still stood in the queue (in shadow): its answer may have begun.
        """
        if self._ended or self._place_at:
            return
        self.visit.pipeline.give_back(self.visit, self._core.now())
        route = self.visit.route
        message = f"No server is well: {reason}. Please try again in {describe_seconds(math.ceil(retry_after))}."
        self._refuse(Refusal("upstream_down", message, route.errors, route.name, retry_after=retry_after), "refused")

    def timed_out(self) -> None:
        """The deadline has passed: give the slot up."""
        self._abandon_connection()
        late = "the server took too long to answer"
        if not self._head_sent:
            self._fail("upstream_timeout", late, "timed-out")
            return
        events = self._events
        final = events.cut_off() if events is not None and self._core.now() >= self._last else None
        self._cut("timed-out", final if final is not None else self._event_of("upstream_timeout", late))

    def cancel(self) -> None:
        """End it because whoever runs the guard says so: the server stops at once, and the client is told why."""
        if self._ended:
            return
        self._abandon_connection()
        if not self._reached:
            self.visit.pipeline.give_back(self.visit, self._core.now())
        if self._head_sent:
            self._cut("cancelled", self._event_of("cancelled", "whoever runs this guard has ended it"))
            return
        route = self.visit.route
        message = "Whoever runs this guard has ended this request."
        self._refuse(Refusal("cancelled", message, route.errors, route.name), "cancelled")

    def client_left(self) -> None:
        """Cancel everything at once: nobody reads the answer."""
        if not self._ended:
            self._abandon_connection()
            self._end("client-left", self._status if self._head_sent else 0)

    def _fail(self, kind: str, reason: str, ending: str = "upstream-failed") -> None:
        if ending == "upstream-failed":
            self.visit.pipeline.give_back(self.visit, self._core.now())
        route = self.visit.route
        self._refuse(Refusal(kind, f"No answer: {reason}.", route.errors, route.name, retry_after=2.0), ending)

    def _refuse(self, refusal: Refusal, ending: str) -> None:
        if self._ended:
            return
        self._out.clear()
        status = self._client.refuse(refusal)
        limit = refusal.standing.name if refusal.standing is not None else ""
        self._end(ending, status, refusal.kind, limit)
        self._client.exchange_ended(reusable=self._client.keep_alive)

    def _event_of(self, kind: str, reason: str) -> bytes | None:
        """Write what tells a stream's client that something went wrong; None where it cannot be told."""
        if self._events is None:
            return None
        return self._events.failed(kind, f"The answer broke off: {reason}.", self.visit.route.errors)

    def _cut(self, ending: str, final: bytes | None = None) -> None:
        """End an answer that has begun.

        A stream of events ends by the `final` ones. Where there are none the framing stays incomplete, so that the
        client can tell.
        """
        if self._ended:
            return
        if final is None:
            self._end(ending, self._status)
            self._client.exchange_ended(reusable=False)
            return
        if final:
            self._frame(final)
        self._complete(ending)

    def _abandon_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        if self._counting is not None:
            self._counting.cancel()
            self._counting = None

    def _end(self, ending: str, status: int, refused: str = "", limit: str = "") -> None:
        self._ended = self._settled = True
        usage = told = None
        try:
            usage = told = self._usage() if status == 200 else None
            if self._events is not None and (usage is None or usage.completion_tokens is None):
                told = with_counted(usage, self._events.count())
        finally:
            self._core.leave(self, told)
            if self.visit.tokens is not None:
                self._settle_tokens(ending, status, usage)
        self._core.finished(self, ending, status, refused, told, place_at=self._place_at,
                            queued_at=self._queued_at, first_byte=self._first_byte, sent=self._sent,
                            reached=self._reached, limit=limit)  # fmt: skip
        self._kept.clear()

    def _settle_tokens(self, ending: str, status: int, usage: Usage | None) -> None:
        """Charge the tokens that were used.

        Of an answer that was cut, what has passed is charged if the server counts as it goes (`timings_per_token`, or
        vLLM's `continuous_usage_stats`) and was never held back.
        """
        core = self._core
        held, self.visit.tokens = self.visit.tokens, None
        quota = self.visit.pipeline.token_quota
        if held is not None and quota is not None:
            answered = ending == "answered"
            settle_tokens(
                quota,
                held,
                usage,
                self._events,
                core.now(),
                untouched=not self._reached or (answered and (400 <= status < 500 or status == 503)),
                partly=not answered and (self._held_back or self._events is None),
            )

    def _usage(self) -> Usage | None:
        form = self.visit.route.form
        if form is not None and self._events is not None:
            return usage_of(form, self._events)
        if form is None or not self._kept or self.visit.route.kind is _TOKENISE:
            return None
        whole = self._kept[0] if len(self._kept) == 1 else b"".join(self._kept)
        answer = read_json(whole)
        return form.usage(answer) if isinstance(answer, dict) else None

    # what is shown of it while it runs

    @property
    def waits(self) -> bool:
        """Whether it stands in the queue."""
        return self.visit.needs_place and not self._place_at

    @property
    def sent(self) -> int:
        """How many bytes of the answer's body have come."""
        return self._sent

    @property
    def tokens_so_far(self) -> int | None:
        """How many tokens of a stream have passed; None of what is no stream, or has not begun."""
        events = self._events
        return None if events is None else events.count()
