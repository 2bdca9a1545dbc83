"""What all connections of a guard share: the pipeline, the places, the pool, the clock, and where records go."""

import asyncio
import math
import secrets
import time
from email.utils import formatdate
from itertools import count

from corral.dialects import dialect
from corral.dialects.model import Usage
from corral.engine.admission import Admission, Refused, Running
from corral.engine.fairqueue import service
from corral.guard.caller import Session, Visit
from corral.guard.cors import CorsRules
from corral.guard.gateway.count import Counting
from corral.guard.gateway.exchange import Exchange
from corral.guard.gateway.health import Health
from corral.guard.gateway.incoming import Incoming
from corral.guard.gateway.outbox import Outbox
from corral.guard.gateway.upstreams import Upstreams, UpstreamServer
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
        self.upstreams = Upstreams(policy, dialect(policy.upstream.dialect), loop, self.outbox, self._places_changed)
        self.health = Health(self.upstreams)
        self.quota_headers = _quota_headers(policy)
        self.refusals = RefusalWriter(all_limits(policy), self.quota_headers)
        self.admission: Admission[Exchange] = Admission(
            self.upstreams.balance.places,
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
        self.cors = CorsRules(policy.cors)
        self.upstreams.reload(policy)
        self.tick()
        places = policy.concurrency
        for following in self.admission.resize(
            self.upstreams.balance.places, places.max_waiting, places.max_wait, places.max_waiting_bytes, self.now()
        ):
            self._start(following)

    def new_request_id(self) -> str:
        """Name a request: unlike any other of this guard, and of any other guard."""
        return f"{self._prefix}-{next(self._numbers):x}"

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
        upstreams = self.upstreams
        if upstreams.away:
            exchange.refuse_away(upstreams.reason(), upstreams.retry_after(now))
            return
        visit = exchange.visit
        caller, asked = visit.caller, visit.asked
        key, plan = caller.key, caller.plan
        estimate = 1.0
        if asked is not None:
            prompt, answers = asked.prompt_chars / _CHARS, visit.cap * asked.choices
            estimate = service(prompt, answers)
            exchange.tokens = prompt + answers
        outcome = self.admission.enter(
            exchange,
            now,
            client=("address", caller.address) if key is None else ("key", key.name),
            weight=1.0 if plan is None else plan.priority,
            estimate=estimate,
            size_bytes=exchange.bytes_in,
        )
        if isinstance(outcome, Running):
            self._assign(exchange, upstreams.balance.choose())
            exchange.run()
        elif isinstance(outcome, Refused):
            exchange.refuse_place(outcome.retry_after)
        else:
            for displaced in outcome.displaced:
                self.loop.call_soon(displaced.refuse_place, self.admission.expected_wait())
            if self.policy.shadow and (server := self.spare_server()) is not None:
                exchange.server = server
                exchange.run()  # it stays in the queue, to be told what would have become of it there

    def spare_server(self) -> UpstreamServer | None:
        """Find a server that can be sent a request beyond its slots; None where there is none."""
        place = self.upstreams.balance.least()
        server = self.upstreams.servers[place] if place >= 0 else None
        return None if server is None or server.pool.full else server

    def leave(self, exchange: Exchange, usage: Usage | None) -> None:
        """Free the place of `exchange`, or its place in the queue; whoever is next runs."""
        if exchange.visit.needs_place:
            if usage is not None:
                asked, prompt = exchange.visit.asked, usage.prompt_tokens
                read = prompt if prompt is not None else 0 if asked is None else asked.prompt_chars / _CHARS
                self.admission.settle(exchange, service(read, usage.completion_tokens or 0))
            self._unassign(exchange)
            for following in self.admission.abandon(exchange, self.now()):
                self._start(following)

    def find_server(self, exchange: Exchange) -> UpstreamServer | None:
        """Find a server for `exchange`, which has sent nothing, and whose own there is none of or is away.

        None where there is none just now: it waits for a place anew, or was refused, and nothing more is to be done.
        """
        upstreams = self.upstreams
        now = self.now()
        if upstreams.away:
            exchange.refuse_away(upstreams.reason(), upstreams.retry_after(now))
            return None
        if not exchange.visit.needs_place:
            exchange.server = upstreams.servers[upstreams.balance.least()]
            return exchange.server
        if self.admission.waits(exchange):
            exchange.server = self.spare_server()  # in shadow: it is counted there when its turn comes
            return exchange.server
        self._unassign(exchange)
        if self.admission.running <= upstreams.balance.places:
            place = upstreams.balance.choose()
            self._assign(exchange, place if place >= 0 else upstreams.balance.least())
            return exchange.server
        self.admission.settle(exchange, 0.0)
        for following in self.admission.abandon(exchange, now):
            self._start(following)
        self.enter(exchange, now)
        return None

    def _assign(self, exchange: Exchange, place: int) -> None:
        if exchange.server is not None:
            place = exchange.server.place  # in shadow it runs already, though it has only now been given a place
        if place >= 0:
            self.upstreams.balance.take(place, exchange.tokens)
            exchange.server = self.upstreams.servers[place]
            exchange.assigned = True

    def _unassign(self, exchange: Exchange) -> None:
        server = exchange.server
        if server is not None:
            exchange.server = None
            assigned, exchange.assigned = exchange.assigned, False
            if assigned and self.upstreams.balance.give_back(server.place, exchange.tokens):
                self._places_changed()

    def _start(self, exchange: Exchange) -> None:
        """Let run who has been given a place."""
        self._assign(exchange, self.upstreams.balance.choose())
        # Not at once: one that fails at once leaves too, and a long queue would end in a recursion.
        self.loop.call_soon(exchange.run)

    def _places_changed(self) -> None:
        """Follow the servers: there are more places, or fewer, or nobody is left whom to wait for."""
        upstreams = self.upstreams
        now = self.now()
        for following in self.admission.set_places(upstreams.balance.places, now):
            self._start(following)
        if upstreams.away:
            reason, retry_after = upstreams.reason(), upstreams.retry_after(now)
            for waiting in self.admission.expire(math.inf):
                self.loop.call_soon(waiting.refuse_away, reason, retry_after)

    def expire(self, now: float) -> None:
        """End what has waited too long for a place, and see to the servers."""
        for exchange in self.admission.expire(now):
            exchange.refuse_place(self.admission.expected_wait(), overdue=True)
        for following in self.admission.follow(now):
            self._start(following)
        self.upstreams.tick(now)

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
