"""Who makes a request: identified by its head, and remembered with its connection."""

import math

from corral.guard.authenticator import Authenticator
from corral.guard.caller import Caller, Head, Session
from corral.guard.credentials import Credential, presented_key
from corral.guard.identity import Identity
from corral.guard.logins import Logins
from corral.guard.partition import partition
from corral.guard.refusal import Refusal
from corral.guard.token_quota import TokenQuota
from corral.policy.model import Policy
from corral.policy.plans import all_limits, limits_that_apply
from corral.stores import Store


class Callers:
    """Finds the caller of a request, and what counts it. `open_to_all` says that no key is asked for."""

    def __init__(
        self,
        policy: Policy,
        store: Store,
        logins: Logins,
        authenticator: Authenticator,
        token_quota: TokenQuota | None,
        *,
        open_to_all: bool,
    ) -> None:
        self._store = store
        self._logins = logins
        self._authenticator = authenticator
        self._token_quota = token_quota
        self._open = open_to_all
        self._plans = policy.plan
        self._limits = all_limits(policy)
        self._applying = {name: limits_that_apply(policy, name) for name in (None, *policy.plan)}
        self._identity = Identity(policy.identity.trusted_proxies, policy.identity.header)

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

    def admit(self, address: str, key: Credential | None) -> Caller:
        """Build the caller that `key` lets in: with its plan, and what counts it."""
        name = key.plan if key is not None else None
        keys = [
            partition(rule, address, key) if applies else None
            for rule, applies in zip(self._limits, self._applying[name], strict=True)
        ]
        quota = self._token_quota
        bound, tokens = (self._store.bind(keys), ()) if quota is None else quota.bind(keys)
        return Caller(
            address,
            key,
            bound,
            plan=None if name is None else self._plans[name],
            valid_until=math.inf if key is None else self._authenticator.valid_until(key),
            generation=self._authenticator.generation,
            token_limits=tokens,
        )
