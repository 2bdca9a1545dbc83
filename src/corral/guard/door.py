"""What the ASGI and the WSGI door share: the pipeline, the places, the headers and the records. No I/O but the log's.

A door reads a request's head into a call (`open`), lets `enter` judge it, reads the body and lets `prepare` judge that,
asks for a place, passes the request on, and ends the call, on every path once.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from corral.dialects import dialect
from corral.dialects.model import ErrorStyle, Usage
from corral.engine import limits_from
from corral.engine.admission import Admission, Refused, Running, Waiting
from corral.engine.fairqueue import service
from corral.errors import PolicyError
from corral.guard.access_log import AccessLog
from corral.guard.answer_usage import AnswerUsage
from corral.guard.app_body import for_app
from corral.guard.app_routes import APP, AppRoutes, Unknown
from corral.guard.authenticator import Authenticator, TokenJudge
from corral.guard.budgets import Budgets
from corral.guard.call import Call
from corral.guard.caller import Visit
from corral.guard.credentials import KeyRing
from corral.guard.door_answers import Answers, Rendered
from corral.guard.door_policy import keyless_on_trust
from corral.guard.door_record import record
from corral.guard.gateway.incoming import TOO_LARGE, Incoming
from corral.guard.identity import Identity
from corral.guard.key_watch import KeyWatch
from corral.guard.logins import Logins
from corral.guard.metrics import Metrics
from corral.guard.pipeline import Pipeline
from corral.guard.record import RecordSink
from corral.guard.refusal import Refusal, no_place
from corral.guard.shadow import Shadowed
from corral.guard.traces.opening import open_traces
from corral.policy.explain import asks_for_keys
from corral.policy.model import DEFAULT_PLACES, Jwt, Policy
from corral.policy.plans import all_limits
from corral.policy.shadow import with_shadow
from corral.stores.memory import MemoryStore

if TYPE_CHECKING:
    from corral.guard.traces.exporter import TraceExporter

TICK = 0.25
"""Seconds between two looks at the clock, the key store and the queue."""

_log = logging.getLogger("corral.guard")
_CHARS = 4  # characters of a prompt that are taken for a token
_OPENAI = ErrorStyle.OPENAI


class Door:
    """Judges the requests of one application. Not safe to call from several threads at once.

    `has_place` is called with each call that waited for a place and has one now.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        unknown: Unknown,
        routes: Mapping[str, str] | None,
        records: RecordSink | None,
        metrics: Metrics | None,
        has_place: Callable[[Call], None],
    ) -> None:
        self.policy = policy = with_shadow(policy)
        self.now = time.monotonic
        self.routes = AppRoutes(dialect(policy.upstream.dialect), routes or {}, unknown)
        self._passes = unknown == "pass"
        self._open = not asks_for_keys(policy)
        self._local_only = keyless_on_trust(policy)
        self._identity = Identity(policy.identity.trusted_proxies, policy.identity.header)
        self._tokens = _own_tokens(policy.jwt) if not self._open and policy.jwt.key_settings else None
        capacity = policy.bounds.max_clients
        self._store = MemoryStore(limits_from(all_limits(policy)), capacity=capacity)
        self._logins = Logins(policy.max_failed_logins, capacity=capacity)
        places = policy.concurrency
        self.admission: Admission[Call] = Admission(
            places.max_running or dialect(policy.upstream.dialect).slots or DEFAULT_PLACES,
            places.max_waiting,
            places.max_wait,
        )
        self.answers = Answers(policy)
        self._has_place = has_place
        self._records = records
        self._log: AccessLog | None = None
        self._traces: TraceExporter | None = None
        self._metrics = metrics
        self._prefix = secrets.token_hex(4)
        self._numbers = count(1)
        self._pipeline: Pipeline | None = None
        self._authenticator: Authenticator | None = None
        self._budgets: Budgets | None = None
        self._wall_offset = 0.0
        self._ticked_at = 0.0

    # start, tick, end

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Open the log and the key store, on the thread that will call `tick`. `loop` fetches an issuer's keys.

        May be called again, for another loop: the counts stay.

        Raises:
            CorralError: one of them cannot be used.

        """
        policy = self.policy
        ring, watch, tokens = KeyRing(policy.keys), None, self._tokens
        if not self._open and policy.credentials.store:
            watch = KeyWatch(Path(policy.credentials.store), ring)
            watch.start()
        if not self._open and policy.jwt.jwks_url is not None and loop is not None:
            from corral.guard.tokens.tokens import Tokens  # noqa: PLC0415  # loaded only where it is needed

            tokens = Tokens.from_policy(policy.jwt, loop)
        if self._log is None and self._records is None:
            self._records = self._log = AccessLog.open(policy.log)
        if self._traces is None:
            self._traces = open_traces(policy, inside=True)
        self._authenticator = Authenticator(ring, policy.plan, watch=watch, tokens=tokens)
        if self._budgets is None:
            self._budgets = Budgets.open(policy, self._store)
        self._pipeline = Pipeline(
            policy,
            self.routes,
            self._store,
            self._logins,
            open_to_all=self._open,
            check_host=self._local_only,
            authenticator=self._authenticator,
            budgets=self._budgets,
        )
        self.tick()

    def tick(self) -> list[Call]:
        """Follow the clock and the key store. Returns who has waited for a place too long."""
        now, wall = self.now(), time.time()
        self._wall_offset = wall - now
        self._ticked_at = now
        if self._pipeline is not None:
            self._pipeline.tick(now, wall)
        if self._records is not None:
            self._records.flush()
        overdue = self.admission.expire(now)
        for call in overdue:
            call.overdue = True
        for following in self.admission.follow(now):
            self._has_place(following)
        if self.policy.shadow:
            self._would_refuse(overdue)
            return []
        return overdue

    @property
    def open_to_all(self) -> bool:
        """Whether no key is asked for."""
        return self._open

    @property
    def is_late(self) -> bool:
        """Whether the last tick is long ago."""
        return self.now() - self._ticked_at > 2 * TICK

    async def close(self) -> None:
        """Let go of the log, the key store and the issuer."""
        authenticator, self._authenticator = self._authenticator, None
        self.close_log()
        if authenticator is not None:
            await authenticator.close()

    def close_log(self) -> None:
        """Write what is left of the log and what was spent of budgets, and send what is left of the traces."""
        budgets, self._budgets = self._budgets, None
        if budgets is not None:
            budgets.close(self.now(), time.time())
        log, self._log = self._log, None
        if log is not None:
            self._records = None
            log.close()
        traces, self._traces = self._traces, None
        if traces is not None:
            traces.close()

    # a request's way in

    def open(
        self, method: bytes, path: str, query: bytes, fields: Iterable[tuple[bytes, bytes]], host: str, *, http10: bool
    ) -> Call:
        """Read a request's head. `path` is what the application routes by: decoded, and without its own root."""
        assert self._pipeline is not None
        incoming = Incoming({})
        incoming.method = method
        incoming.http10 = http10
        target = path.encode("utf-8", "surrogatepass").replace(b"?", b"%3F")
        incoming.target = target + b"?" + query if query else target
        for name, value in fields:
            incoming.add_field(name, value)
        incoming.check_framing(self.policy.bounds.max_headers, self.policy.bounds.max_head)
        if not incoming.head.get(b"content-length", b"0").isdigit():
            incoming.fault = "The Content-Length is no number."
        session = self._pipeline.session(host)
        now = self.now()
        identity = self._identity
        session.address = identity.client(host, incoming.head) if identity.reads_headers else identity.peer(host)
        call = Call(
            incoming,
            session,
            request_id=f"{self._prefix}-{next(self._numbers):x}",
            arrived=now,
            wall=now + self._wall_offset,
        )
        if self._traces is not None:
            call.trace = self._traces.begin(incoming.head, host)
        return call

    def enter(self, call: Call, host: str) -> Visit | Refusal | None:
        """Judge the head of a request; None where the guard has nothing to do with it. Never raises."""
        incoming = call.incoming
        if self._passes and self.routes.match(incoming.method, incoming.target.partition(b"?")[0]) is APP:
            return None
        if incoming.fault:
            kind = "headers_too_large" if incoming.fault == TOO_LARGE else "bad_http"
            return Refusal(kind, incoming.fault, _OPENAI, "unknown")
        if self._local_only and not _is_local(host):
            return Refusal("forbidden", _NOT_DECIDED, _OPENAI, "unknown")
        assert self._pipeline is not None
        try:
            outcome = self._pipeline.enter(incoming.method, incoming.target, incoming.head, call.session, call.arrived)
        except Exception:  # noqa: BLE001  # fail closed: what cannot be judged is not served
            return self._failed("unknown", _OPENAI)
        if type(outcome) is Refusal:
            caller = call.session.caller
            call.key = None if caller is None else caller.key
            return outcome
        assert isinstance(outcome, Visit)
        call.visit = outcome
        call.address, call.key = outcome.caller.address, outcome.caller.key
        call.usage = AnswerUsage(outcome.route)
        if incoming.content_length() > self.policy.bounds.max_body:
            return self.too_large(call)
        return outcome

    def prepare(self, call: Call, body: bytes) -> bytes | Refusal:
        """Judge the body of a request whose route has a form; returns the one for the application. Never raises."""
        visit = call.visit
        assert visit is not None
        assert self._pipeline is not None
        try:
            prepared = self._pipeline.prepare(visit, call.incoming.head, body, self.now())
            return for_app(body, prepared, visit.cap) if isinstance(prepared, bytes) else prepared
        except Exception:  # noqa: BLE001  # as above
            return self._failed(visit.route.name, visit.route.errors)

    @staticmethod
    def _failed(route: str, style: ErrorStyle) -> Refusal:
        _log.exception("A request failed inside the guard")
        return Refusal("internal", "The guard failed while admitting this request.", style, route, retry_after=5.0)

    def ask_for_place(self, call: Call) -> Running | Waiting[Call] | Refused:
        """Ask for a place; whoever a `Waiting` displaced is to be refused by `no_place`."""
        visit = call.visit
        assert visit is not None
        asked, caller = visit.asked, visit.caller
        call.queued_at = self.now()
        outcome = self.admission.enter(
            call,
            call.queued_at,
            client=("address", caller.address) if caller.key is None else ("key", caller.key.name),
            weight=1.0 if caller.plan is None else caller.plan.priority,
            estimate=1.0 if asked is None else service(asked.prompt_chars / _CHARS, visit.cap * asked.choices),
            size_bytes=call.bytes_in,
        )
        call.queued = not isinstance(outcome, Refused)
        return self._in_shadow(call, outcome) if self.policy.shadow else outcome

    def _in_shadow(self, call: Call, outcome: Running | Waiting[Call] | Refused) -> Running:
        """Note who would have found no place, and let the call run: what waits is only its ticket."""
        if isinstance(outcome, Refused):
            call.shadow.append(Shadowed("overloaded", "", outcome.retry_after))
        elif isinstance(outcome, Waiting):
            self._would_refuse(outcome.displaced)
        return Running()

    def _would_refuse(self, calls: Iterable[Call]) -> None:
        for call in calls:
            call.shadow.append(Shadowed("overloaded", "", self.admission.expected_wait()))

    # refusals

    def too_large(self, call: Call) -> Refusal:
        """Refuse a body for its size."""
        return self._refusal(call, "payload_too_large", f"The body is longer than {self.policy.bounds.max_body} bytes.")

    def too_slow(self, call: Call) -> Refusal:
        """Refuse a body that does not arrive."""
        return self._refusal(call, "timeout", "The body took too long to arrive.")

    def timed_out(self, call: Call) -> Refusal:
        """Refuse because the application has taken too long."""
        return self._refusal(call, "upstream_timeout", "No answer: the application took too long.", 2.0)

    def no_place(self, call: Call, retry_after: float) -> Refusal:
        """Refuse for want of a place. What the request took of its quotas is given back."""
        assert self._pipeline is not None
        assert call.visit is not None
        self._pipeline.give_back(call.visit, self.now())
        message = no_place(retry_after, self.policy.concurrency.max_wait if call.overdue else None)
        return self._refusal(call, "overloaded", message, retry_after)

    @staticmethod
    def _refusal(call: Call, kind: str, message: str, retry_after: float | None = None) -> Refusal:
        assert call.visit is not None
        route = call.visit.route
        return Refusal(kind, message, route.errors, route.name, retry_after=retry_after)

    def render(self, call: Call, refusal: Refusal, *, close: bool = False) -> Rendered:
        """Write a refusal, and end the call with it. What a limit of the application refuses costs no other quota."""
        if refusal is call.over and call.visit is not None and self._pipeline is not None:
            self._pipeline.give_back(call.visit, self.now())
        rendered = self.answers.refusal(call, refusal, close=close)
        call.status = rendered.status
        self.finish(call, "timed-out" if refusal.kind == "upstream_timeout" else "refused", refusal)
        return rendered

    # the end

    def _settle_tokens(self, visit: Visit, refusal: Refusal | None, usage: Usage | None, now: float) -> None:
        """Charge the tokens that were used; none where the application's model never had the request."""
        assert self._pipeline is not None
        held, visit.tokens = visit.tokens, None
        quota = self._pipeline.token_quota
        if held is None or quota is None:
            return
        if refusal is not None and refusal.kind != "upstream_timeout":
            quota.release(held, now)
        else:
            quota.settle(held, usage, now)

    def finish(self, call: Call, ending: str, refusal: Refusal | None = None) -> None:
        """End a call, once: its place goes to whoever is next, and the request is recorded."""
        if call.ended:
            return
        call.ended = True
        now = self.now()
        usage = call.usage.usage() if call.usage is not None and refusal is None else None
        if call.visit is not None and call.visit.tokens is not None:
            self._settle_tokens(call.visit, refusal, usage, now)
        if call.queued:
            if usage is not None and usage.prompt_tokens is not None:
                self.admission.settle(call, service(usage.prompt_tokens, usage.completion_tokens or 0))
            for following in self.admission.abandon(call, now):
                self._has_place(following)
        if call.visit is not None or refusal is not None:
            finished = record(call, ending, refusal, usage, now)
            if self._records is not None:
                self._records.record(finished)
            if self._metrics is not None:
                self._metrics.finished(finished)
            if self._traces is not None:
                self._traces.record(finished)


_NOT_DECIDED = (
    "This guard was told nothing about keys, so it hears only its own machine. "
    'Add [[keys]] to its policy, or write auth = "none" if the application itself says who may come in.'
)


def _own_tokens(jwt: Jwt) -> TokenJudge | None:
    """Build what judges tokens by a key in the policy; None where an issuer publishes the keys.

    Raises:
        PolicyError: the key cannot be used, or the extra is not installed.

    """
    try:
        from corral.guard.tokens.keys import policy_key  # noqa: PLC0415  # loaded only where it is needed
        from corral.guard.tokens.tokens import Tokens  # noqa: PLC0415  # as above
        from corral.guard.tokens.verifier import PolicyKey  # noqa: PLC0415  # as above
    except ModuleNotFoundError as error:
        raise PolicyError(f"[jwt] needs {error.name}, which is not installed: pip install 'corral[jwt]'") from None
    return None if jwt.jwks_url is not None else Tokens(jwt, PolicyKey(policy_key(jwt)))


def _is_local(host: str) -> bool:
    """Tell whether a peer is on this machine; one without an address came by a Unix socket."""
    if not host:
        return True
    with contextlib.suppress(ValueError):
        address = ip_address(host.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return address.is_loopback or (mapped is not None and mapped.is_loopback)
    return False
