"""What all connections of a guard share: the pipeline, the places, the pool, the clock, and where records go."""

import asyncio
import secrets
import time
from email.utils import formatdate
from itertools import count

from corral.dialects import dialect
from corral.dialects.model import Route, Usage
from corral.engine.admission import Admission, Refused, Running
from corral.engine.fairqueue import service
from corral.guard.caller import Session, Visit
from corral.guard.cors import CorsRules
from corral.guard.gateway.count import Counting
from corral.guard.gateway.exchange import Exchange
from corral.guard.gateway.health import Health
from corral.guard.gateway.incoming import Incoming
from corral.guard.gateway.outbox import Outbox
from corral.guard.gateway.upstream import UpstreamPool
from corral.guard.metrics import Metrics
from corral.guard.pipeline import Pipeline
from corral.guard.quota_headers import QuotaHeaders
from corral.guard.record import Finished, RecordSink
from corral.guard.refusal import REASONS, Refusal, RefusalWriter, drained
from corral.guard.shadow import logged
from corral.guard.traces.context import TraceSink
from corral.policy.model import Policy
from corral.policy.plans import all_limits, limits_of

_MOST_STARTS = 256

_CHARS = 4
"""How many characters of a prompt are taken for a token, until the server has counted them."""

_new = tuple.__new__
"""Builds a named tuple of twenty-one fields in 0.35 µs; calling its class takes 0.75 µs."""


class Core:
    """The shared state of one guard. Lives on one event loop, and is used by it alone."""

    def __init__(
        self,
        policy: Policy,
        pipeline: Pipeline,
        loop: asyncio.AbstractEventLoop,
        *,
        access_log: RecordSink | None,
        metrics: Metrics | None,
        traces: TraceSink | None = None,
    ) -> None:
        self.policy = policy
        self.pipeline = pipeline
        self.loop = loop
        self.now = loop.time
        self.outbox = Outbox(loop)
        self.pool = UpstreamPool(policy.upstream, loop, self.outbox)
        self.health = Health(self.pool, dialect(policy.upstream.dialect).health_path)
        self.quota_headers = _quota_headers(policy)
        self.refusals = RefusalWriter(all_limits(policy), self.quota_headers)
        self.admission: Admission[Exchange] = Admission(
            policy.concurrency.max_running,
            policy.concurrency.max_waiting,
            policy.concurrency.max_wait,
            policy.concurrency.max_waiting_bytes,
        )
        self.cors = CorsRules(policy.cors)
        self.counting = Counting(self)
        self.draining = False
        self.drained = False
        """Whether new requests are refused because whoever runs the guard said so; `draining` is its end."""
        self.date = b""
        self.wall_offset = 0.0
        self._log = access_log.record if access_log is not None else None
        self._flush_log = access_log.flush if access_log is not None else None
        self._count = metrics.finished if metrics is not None else None
        self.traces = traces
        self._prefix = secrets.token_hex(4)
        self._numbers = count(1)
        self._heads: dict[Route, bytes] = {}
        self._starts: dict[tuple[int, bytes], bytes] = {}
        self.tick()

    def tick(self) -> None:
        """Renew what changes once a second."""
        self.date = f"Date: {formatdate(usegmt=True)}\r\n".encode()
        now, wall = self.now(), time.time()
        self.wall_offset = wall - now
        self.quota_headers.wall = wall
        self.pipeline.tick(now, wall)
        if self._flush_log is not None:
            self._flush_log()

    def reload(self, policy: Policy, pipeline: Pipeline) -> None:
        """Take another policy, at once: what enters from now on enters `pipeline`. What runs or waits goes on.

        The server's address must be the same, and `pipeline` ready: nothing here may fail.
        """
        self.policy = policy
        self.pipeline = pipeline
        self.quota_headers = _quota_headers(policy)
        self.refusals = RefusalWriter(all_limits(policy), self.quota_headers)
        self._heads.clear()
        self.pool.reload(policy.upstream)
        self.tick()
        places = policy.concurrency
        for following in self.admission.resize(
            places.max_running, places.max_waiting, places.max_wait, places.max_waiting_bytes, self.now()
        ):
            self.loop.call_soon(following.run)

    def new_request_id(self) -> str:
        """Name a request: unlike any other of this guard, and of any other guard."""
        return f"{self._prefix}-{next(self._numbers):x}"

    def request_head(self, route: Route, length: int) -> bytes:
        """Write the head of the request to the server. No byte of it comes from the client."""
        start = self._heads.get(route)
        if start is None:
            upstream = self.policy.upstream
            start = b"%b %b HTTP/1.1\r\nHost: %b\r\nAccept: */*\r\n" % (
                route.method,
                route.path,
                self.pool.host_header,
            )
            if upstream.api_key:
                start += b"Authorization: Bearer %b\r\n" % upstream.api_key.encode()
            self._heads[route] = start
        if route.method == b"GET":
            return start + b"\r\n"
        return b"%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (start, length)

    def question_head(self, path: bytes, length: int) -> bytes:
        """Write the head of a question of the guard's own to the server."""
        key = self.policy.upstream.api_key
        return (
            b"POST %b HTTP/1.1\r\nHost: %b\r\nAccept: */*\r\n%bContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n"
        ) % (path, self.pool.host_header, b"Authorization: Bearer %b\r\n" % key.encode() if key else b"", length)

    def answer_start(self, status: int, content_type: bytes) -> bytes:
        """Write the first lines of an answer, those that do not differ from request to request."""
        start = self._starts.get((status, content_type))
        if start is None:
            if len(self._starts) >= _MOST_STARTS:
                self._starts.clear()
            start = b"HTTP/1.1 %d %b\r\n" % (status, REASONS.get(status, b"Answer"))
            if content_type:
                start += b"Content-Type: %b\r\n" % content_type
            start += b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
            self._starts[status, content_type] = start
        return start

    def refuse_drained(self, visit: Visit, now: float) -> Refusal:
        """Refuse a request that may go on but for the drain; what it took is given back."""
        visit.pipeline.give_back(visit, now)
        return drained(visit.route.errors, visit.route.name)

    # places

    def enter(self, exchange: Exchange, now: float) -> None:
        """Ask for a place for `exchange`: it runs now, waits, or is refused."""
        visit = exchange.visit
        caller, asked = visit.caller, visit.asked
        key, plan = caller.key, caller.plan
        outcome = self.admission.enter(
            exchange,
            now,
            client=("address", caller.address) if key is None else ("key", key.name),
            weight=1.0 if plan is None else plan.priority,
            estimate=1.0 if asked is None else service(asked.prompt_chars / _CHARS, visit.cap * asked.choices),
            size_bytes=exchange.bytes_in,
        )
        if isinstance(outcome, Running):
            exchange.run()
        elif isinstance(outcome, Refused):
            exchange.refuse_place(outcome.retry_after)
        else:
            for displaced in outcome.displaced:
                self.loop.call_soon(displaced.refuse_place, self.admission.expected_wait())
            if self.policy.shadow and self.pool.has_room:
                exchange.run()  # it stays in the queue, to be told what would have become of it there

    def leave(self, exchange: Exchange, usage: Usage | None) -> None:
        """Free the place of `exchange`, or its place in the queue; whoever is next runs."""
        if exchange.visit.needs_place:
            if usage is not None:
                asked, prompt = exchange.visit.asked, usage.prompt_tokens
                read = prompt if prompt is not None else 0 if asked is None else asked.prompt_chars / _CHARS
                self.admission.settle(exchange, service(read, usage.completion_tokens or 0))
            for following in self.admission.abandon(exchange, self.now()):
                # Not at once: one that fails at once leaves too, and a long queue would end in a recursion.
                self.loop.call_soon(following.run)

    def expire(self, now: float) -> None:
        """End what has waited too long: for a place, for the server's health, or idle towards the server."""
        for exchange in self.admission.expire(now):
            exchange.refuse_place(self.admission.expected_wait())
        for following in self.admission.follow(now):
            self.loop.call_soon(following.run)
        self.health.expire(now)
        self.pool.prune(now)

    def connect(self, exchange: Exchange) -> None:
        """Open a connection to the server for `exchange`."""
        self.pool.connect(exchange.connected)

    # records

    def refused(
        self,
        session: Session,
        incoming: Incoming,
        refusal: Refusal,
        status: int,
        *,
        wall: float,
        arrived: float,
        request_id: str,
    ) -> None:
        """Record a request that the guard refused before it asked for a place."""
        key = session.caller.key if session.caller is not None else None
        standing = refusal.standing
        traces = self.traces
        self.record(
            _new(
                Finished,
                (
                    wall,
                    request_id,
                    key.name if key is not None else "",
                    session.address,
                    incoming.method.decode("latin-1"),
                    refusal.route,
                    status,
                    refusal.kind,
                    standing.name if standing is not None else "",
                    False,
                    0.0,
                    0.0,
                    self.now() - arrived,
                    incoming.size,
                    0,
                    -1,
                    -1,
                    -1.0,
                    "refused",
                    (key.plan or "") if key is not None else "",
                    traces.begin(incoming.head, session.peer) if traces is not None else None,
                    "",
                ),
            )
        )

    def finished(
        self,
        exchange: Exchange,
        ending: str,
        status: int,
        refused: str,
        usage: Usage | None,
        *,
        queued_at: float,
        place_at: float,
        first_byte: float,
        sent: int,
        reached: bool,
        limit: str = "",
    ) -> None:
        """Record a request that has ended."""
        visit = exchange.visit
        key = visit.caller.key
        now = self.now()
        prompt, completion, compute = usage if usage is not None else (None, None, None)
        asked = visit.asked
        trace = exchange.trace
        if trace is not None:
            trace.note(
                queued_at - exchange.arrived if queued_at else -1.0,
                place_at - exchange.arrived if reached else -1.0,
                asked.model if asked is not None else None,
                visit.cap,
            )
        self.record(
            _new(
                Finished,
                (
                    exchange.wall,
                    exchange.request_id,
                    key.name if key is not None else "",
                    visit.caller.address,
                    visit.route.method.decode(),
                    visit.route.name,
                    status,
                    refused,
                    limit,
                    asked.stream if asked is not None else False,
                    max(0.0, (place_at or now) - queued_at) if queued_at else 0.0,
                    max(0.0, first_byte - exchange.arrived) if first_byte else 0.0,
                    now - exchange.arrived,
                    exchange.bytes_in,
                    sent,
                    -1 if prompt is None else prompt,
                    -1 if completion is None else completion,
                    -1.0 if compute is None else compute,
                    ending,
                    (key.plan or "") if key is not None else "",
                    trace,
                    logged(visit.shadow) if visit.shadow else "",
                ),
            )
        )

    def record(self, finished: Finished) -> None:
        """Hand a record to the log and to the metrics."""
        if self._log is not None:
            self._log(finished)
        if self._count is not None:
            self._count(finished)
        if finished.trace is not None and self.traces is not None:
            self.traces.record(finished)


def _quota_headers(policy: Policy) -> QuotaHeaders:
    return QuotaHeaders(policy.limits, {name: limits_of(policy, name) for name in policy.plan})
