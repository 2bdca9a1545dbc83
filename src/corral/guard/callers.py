"""Who makes a request: identified by its head, and remembered with its connection."""

import math

from corral.dialects.model import Route
from corral.engine.decision import PartitionKey
from corral.guard.authenticator import Authenticator
from corral.guard.caller import BodyLimits, Caller, Head, Session
from corral.guard.credentials import Credential, presented_key
from corral.guard.identity import Identity
from corral.guard.logins import Logins
from corral.guard.partition import Partitions
from corral.guard.refusal import Refusal
from corral.policy.model import Policy
from corral.policy.plans import all_limits, limits_that_apply
from corral.stores import Store


class Callers:
    """Finds the caller of a request, and what counts it. `open_to_all` says that no key is asked for.

    `by_route` and `by_model` say whether a caller is counted differently from route to route, and from model to model.
    """

    def __init__(
        self,
        policy: Policy,
        store: Store,
        logins: Logins,
        authenticator: Authenticator,
        *,
        open_to_all: bool,
    ) -> None:
        self._store: Store = store
        self._logins = logins
        self._authenticator = authenticator
        self._open = open_to_all
        self._plans = policy.plan
        limits = all_limits(policy)
        self._partitions = Partitions(policy)
        self._parts = [rule.partitions for rule in limits]
        self._by_head = [not rule.needs_body for rule in limits]
        self._by_body = [rule.needs_body and rule.quota.unit == "requests" for rule in limits]
        self._held = [rule.quota.unit != "requests" for rule in limits]
        self._all_by_head = all(self._by_head)
        self._holds = any(self._held)
        self.by_route = any("route" in parts for parts in self._parts)
        self.by_model = any("model" in parts for parts in self._parts)
        self._applying = {name: limits_that_apply(policy, name) for name in (None, *policy.plan)}
        self._identity = Identity(policy.identity.trusted_proxies, policy.identity.header)

    def succeeded(self, store: Store) -> None:
        """Count in `store` from now on."""
        self._store = store

    def session(self, host: str) -> Session:
        """Open a session for a connection from `host`."""
        return Session(self._identity.peer(host) if not self._identity.reads_headers else host)

    def address(self, head: Head, session: Session) -> str:
        """Say whose address counts for a request."""
        return self._identity.client(session.peer, head) if self._identity.reads_headers else session.peer

    def find(self, head: Head, session: Session, now: float) -> Caller | Refusal:
        """Identify the caller, from the session where the same credential is presented again."""
        authorization = head.get(b"authorization")
        api_key = head.get(b"x-api-key")
        known = session.caller
        same = (
            known is not None
            and authorization == session.authorization
            and api_key == session.api_key
            and now < known.valid_until
            and known.generation == self._authenticator.generation
        )
        if same and not self._identity.reads_headers:
            assert known is not None
            return known
        session.address = address = self.address(head, session)
        if same and known is not None and known.address == address:
            return known
        key = None
        if not self._open:
            presented = presented_key(head)
            outcome = self._logins.check(self._authenticator, presented, address, now)
            if type(outcome) is Refusal:
                session.caller = None
                return outcome
            key = outcome
        assert key is None or isinstance(key, Credential)
        caller = self.admit(address, key)
        session.authorization, session.api_key, session.caller = authorization, api_key, caller
        return caller

    def admit(self, address: str, key: Credential | None, route: str = "") -> Caller:
        """Build the caller that `key` lets in: with its plan, and what counts it (on `route`, where that matters)."""
        plan = key.plan if key is not None else None
        name, applying = self._partitions.name, self._applying[plan]
        names = [
            name(parts, address, key, route) if applies else None
            for parts, applies in zip(self._parts, applying, strict=True)
        ]
        return Caller(
            address,
            key,
            self._store.bind(names if self._all_by_head else _only(names, self._by_head)),
            plan=None if plan is None else self._plans[plan],
            valid_until=math.inf if key is None else self._authenticator.valid_until(key),
            generation=self._authenticator.generation,
            token_limits=self._store.bind(_only(names, self._held)) if self._holds else (),
            route=route,
        )

    def on_route(self, caller: Caller, route: Route) -> Caller:
        """Find a caller as it is counted on one route."""
        found = caller.routes.get(route.name)
        if found is None:
            found = caller.routes[route.name] = self.admit(caller.address, caller.key, route.name)
        return found

    def on_model(self, caller: Caller, asked: str | None) -> BodyLimits:
        """Find what counts a caller's requests for one model; all models that the policy does not know are one."""
        model = self._partitions.model(asked)
        found = caller.models.get(model)
        if found is None:
            key = caller.key
            applying = self._applying[None if key is None else key.plan]
            names = [
                self._partitions.name(parts, caller.address, key, caller.route, model) if applies else None
                for parts, applies in zip(self._parts, applying, strict=True)
            ]
            requests = self._store.bind(_only(names, self._by_body))
            found = caller.models[model] = BodyLimits(requests, self._store.bind(_only(names, self._held)))
        return found


def _only(names: list[PartitionKey | None], which: list[bool]) -> list[PartitionKey | None]:
    return [name if chosen else None for name, chosen in zip(names, which, strict=True)]
