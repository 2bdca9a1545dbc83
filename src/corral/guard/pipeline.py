"""Whether a request may go on: every step that can be decided from its head, then those that need its body.

The steps stand in the order of their cost, and whatever can be refused before the body is read is refused before the
body is read. There is no I/O here: the gateway and the middleware doors call the same two functions.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from corral.dialects.model import Asked, Dialect, Route, RouteClass
from corral.engine.decision import NOTHING, Admit, Deny, Reservation, Standing
from corral.guard.authenticator import Authenticator
from corral.guard.body_check import BodyCheck
from corral.guard.budgets import Budgets
from corral.guard.caller import BodyLimits, Caller, Head, Session, Visit
from corral.guard.callers import Callers
from corral.guard.credentials import KeyRing, key_in_query
from corral.guard.logins import Logins
from corral.guard.refusal import Refusal
from corral.guard.route_rules import RouteRules, host_is_local, key_in_url
from corral.guard.shadow import by_limits
from corral.guard.token_quota import TokenHold, TokenQuota, reclamp
from corral.policy.model import Policy
from corral.policy.models import with_plain_names
from corral.policy.plans import all_limits
from corral.stores import Binding, Store
from corral.stores.succession import Move, Succeeded

# Enum members are looked up once: in CPython 3.11 an access through the class takes 0.9 µs, a global 0.02 µs.
_HEALTH = RouteClass.HEALTH
_INFERENCE = RouteClass.INFERENCE
_STATE = RouteClass.STATE
_MANAGEMENT = RouteClass.MANAGEMENT


class Pipeline:
    """Decides over requests by one policy.

    `open_to_all` says that no key is asked for; `check_host` that only requests addressed to an IP address or to
    localhost are heard (a web page can point a name of its own at a loopback address, and no key would stop it).
    `authenticator` judges credentials; where there is none, the policy's own keys alone are let in. `budgets` keeps
    what a restart must not forgive. `size` is how many limits the policy has.
    """

    def __init__(
        self,
        policy: Policy,
        dialect: Dialect,
        store: Store,
        logins: Logins,
        *,
        open_to_all: bool,
        check_host: bool,
        authenticator: Authenticator | None = None,
        budgets: Budgets | None = None,
    ) -> None:
        policy = with_plain_names(policy)
        self._budgets = budgets
        self.size = len(all_limits(policy))
        self._match = dialect.match
        self._take = store.take
        self._store: Store = store
        self.token_quota = TokenQuota.of(policy, store)
        self._authenticator = authenticator or Authenticator(KeyRing(policy.keys), policy.plan)
        self._callers = Callers(policy, store, logins, self._authenticator, open_to_all=open_to_all)
        self._by_route = self._callers.by_route
        self._by_model = self._callers.by_model
        self._counts_bodies = self._by_model or self.token_quota is not None
        self._route_rules = RouteRules(policy.routes, dialect, logins, check_host=check_host)
        self._check_host = check_host
        self._body_check = BodyCheck(policy)
        self._in_shadow = policy.shadow
        self._rules = {rule.name: rule for rule in all_limits(policy)}

    @property
    def store(self) -> Store:
        """What counts the requests of this pipeline now."""
        return self._store

    def succeeded(self, successor: "Pipeline", moves: Sequence[Move]) -> None:
        """Let the requests that have entered go on, and count in the store of `successor`, which adopted this one's.

        `moves` is what `MemoryStore.adopt` returned. Nothing may enter here any more.
        """
        self._store = store = Succeeded(lambda: successor.store, moves, successor.size)
        self._take = store.take
        self._callers.succeeded(store)
        if self.token_quota is not None:
            self.token_quota.succeeded(store, successor.token_quota)

    def tick(self, now: float, wall: float) -> None:
        """Follow the wall clock and the key store; to be called a few times a second. Never raises."""
        self._authenticator.tick(now, wall)
        self._store.follow_wall(wall - now)
        if self._budgets is not None:
            self._budgets.tick(now, wall)

    def session(self, host: str) -> Session:
        """Open a session for a connection from `host`."""
        return self._callers.session(host)

    def enter(self, method: bytes, target: bytes, head: Head, session: Session, now: float) -> Visit | Refusal:
        """Decide by the head alone: route, credential, request quotas. A refused request consumes no quota."""
        path = target.partition(b"?")[0] if b"?" in target else target
        route = self._match(method, path)
        if route is None and method == b"HEAD":
            route = self._match(b"GET", path)
        if b"?" in target and key_in_query(target.partition(b"?")[2]):
            session.caller = None
            session.address = self._callers.address(head, session)
            return key_in_url(route)
        # Whether the server is well is told to everybody: who asks without a key has not failed to present one.
        if route is not None and route.kind is _HEALTH and not (self._check_host and not host_is_local(head)):
            return Visit(self, route, Caller(self._callers.address(head, session), None, ()), NOTHING, None)
        caller = self._callers.find(head, session, now)
        if type(caller) is Refusal:
            return caller if route is None else replace(caller, style=route.errors, route=route.name)
        assert isinstance(caller, Caller)
        if route is None or (self._check_host and not host_is_local(head)):
            return self._route_rules.stray(path, head, caller, now)
        kind = route.kind
        if kind is _STATE or kind is _MANAGEMENT:
            forbidden = self._route_rules.forbidden(route, caller)
            if forbidden is not None:
                return forbidden
        if self._by_route:
            caller = self._callers.on_route(caller, route)
        if now < caller.denied_until:
            told = caller.told
            if told is not None and told.route == route.name and now < caller.told_until:
                return told
            return self._over_quota(route, caller, now)
        decision = self._take(caller.limits, now)
        if type(decision) is Deny:
            caller.denial = decision
            caller.denied_until = now + decision.retry_after
            return self._over_quota(route, caller, now)
        assert isinstance(decision, Admit)
        shadow = by_limits(decision.shadowed, self._rules) if decision.shadowed else ()
        return Visit(self, route, caller, decision.reservation, decision.tightest, shadow)

    def prepare(self, visit: Visit, head: Head, body: bytes, now: float) -> bytes | Refusal:
        """Decide by the body: parse it strictly, check and clamp it, reserve its tokens. Returns the body to send.

        What is returned is written anew from what was understood: guard and server cannot read it differently.
        """
        prepared = self._body_check.prepare(visit, head, body)
        asked = visit.asked
        if not self._counts_bodies or asked is None or type(prepared) is Refusal:
            return prepared
        assert isinstance(prepared, bytes)
        limits = visit.caller.token_limits
        if self._by_model:
            by_model = self._callers.on_model(visit.caller, asked.model)
            limits = by_model.held
            refusal = self._take_by_model(visit, by_model, now)
            if refusal is not None:
                return refusal
        return self._hold(visit, limits, asked, prepared, now)

    def _take_by_model(self, visit: Visit, limits: BodyLimits, now: float) -> Refusal | None:
        """Charge the limits on requests that count models; where one refuses, what the head took is given back."""
        if not limits.requests:
            return None
        decision = self._take(limits.requests, now)
        if type(decision) is Deny:
            self.give_back(visit, now)
            worst = max(decision.violated, key=_wait)
            route, key = visit.route, visit.caller.key
            return Refusal(
                "quota_exceeded", "", route.errors, route.name, retry_after=decision.retry_after, standing=worst,
                plan=key.plan if key is not None else None,
            )  # fmt: skip
        assert isinstance(decision, Admit)
        taken = decision.reservation
        visit.reservation = Reservation(visit.reservation.charges + taken.charges, taken.cost)
        visit.shadow += by_limits(decision.shadowed, self._rules)
        standing = decision.tightest
        if standing is not None and (visit.standing is None or _share(standing) < _share(visit.standing)):
            visit.standing = standing
        return None

    def _hold(self, visit: Visit, limits: Binding, asked: Asked, prepared: bytes, now: float) -> bytes | Refusal:
        """Hold what a request may use; one that has to wait for that gets back what it took as a request."""
        caller, quota = visit.caller, self.token_quota
        if quota is None or not limits:
            return prepared
        plan = caller.key.plan if caller.key is not None else None
        cap = visit.cap
        if not cap and self._in_shadow and visit.route.kind is _INFERENCE:
            cap = self._body_check.cap(asked, caller.plan)  # it was not applied, but would be held
        outcome = quota.reserve(limits, visit.route, asked, cap, prepared, plan=plan, now=now)
        if type(outcome) is Refusal:
            if outcome.retry_after is not None:
                self.give_back(visit, now)
            return outcome
        assert isinstance(outcome, TokenHold)
        visit.tokens = outcome
        if outcome.hold.shadowed:
            visit.shadow += by_limits(outcome.hold.shadowed, self._rules)
        if outcome.cap == cap:
            return prepared
        visit.cap = outcome.cap
        return reclamp(visit.route, prepared, outcome.cap)

    def counted(self, visit: Visit, prepared: bytes, prompt: int | None, now: float) -> bytes | Refusal:
        """Hold what a request may use now that its prompt was counted; None where it was not. Returns the body to send.

        `prepared` is what `prepare` returned. A request that has to wait gets back what it took as a request.
        """
        held, quota, asked = visit.tokens, self.token_quota, visit.asked
        assert held is not None
        assert quota is not None
        assert asked is not None
        key = visit.caller.key
        cap, told = held.cap, len(held.hold.shadowed)
        refusal = quota.adjust(held, visit.route, asked, prompt, plan=None if key is None else key.plan, now=now)
        if refusal is not None:
            if refusal.retry_after is not None:
                self.give_back(visit, now)
            return refusal
        if len(held.hold.shadowed) > told:
            visit.shadow += by_limits(held.hold.shadowed[told:], self._rules)
        if held.cap == cap:
            return prepared
        visit.cap = held.cap
        return reclamp(visit.route, prepared, held.cap)

    def give_back(self, visit: Visit, now: float) -> None:
        """Return what a visit took as a request: it was refused for want of what others have just now."""
        if visit.reservation.cost:
            self._store.give_back(visit.reservation, now)

    def _over_quota(self, route: Route, caller: Caller, now: float) -> Refusal:
        """Refuse a caller that is denied; what it is told changes once a second."""
        assert caller.denial is not None
        wait = caller.denied_until - now
        seconds = max(1, math.ceil(wait - 1e-6))  # (now + 1800) - now may be a hair more than 1800
        worst = max(caller.denial.violated, key=_wait)
        caller.told = Refusal(
            "quota_exceeded",
            "",
            route.errors,
            route.name,
            None,
            seconds,
            worst,
            caller.key.plan if caller.key is not None else None,
        )
        caller.told_until = caller.denied_until - (seconds - 1)
        return caller.told


def _wait(standing: Standing) -> float:
    return standing.reset


def _share(standing: Standing) -> float:
    return standing.remaining / standing.quota
