"""A guard, put together from a policy: what the command line starts and stops."""

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

from corral.dialects import dialect
from corral.engine import limits_from
from corral.errors import CorralError, PolicyError
from corral.guard.authenticator import Authenticator, TokenJudge
from corral.guard.authz.connection import AuthzConnection
from corral.guard.budgets import Budgets
from corral.guard.credentials import KeyRing
from corral.guard.gateway.connection import ClientConnection
from corral.guard.gateway.core import Core
from corral.guard.gateway.listener import Listener
from corral.guard.gauges import show_state
from corral.guard.identity import Identity
from corral.guard.key_watch import KeyWatch
from corral.guard.logins import Logins
from corral.guard.metrics import Metrics
from corral.guard.pipeline import Pipeline
from corral.guard.record import RecordSink
from corral.guard.tls import Certificate, load_certificate
from corral.guard.traces.context import TraceSink
from corral.guard.upstream_words import describe_servers
from corral.policy.address import Endpoint, parse_endpoint
from corral.policy.changes import RestartError, refuse_change
from corral.policy.model import Jwt, Policy
from corral.policy.plans import all_limits
from corral.policy.shadow import with_shadow
from corral.stores.memory import MemoryStore


class ListenError(CorralError):
    """The address to listen on cannot be had."""

    exit_code = 3


class Guard:
    """One guard in front of inference servers; with `authz` in front of none: it tells proxies what may go on.

    `policy.auth` must be resolved by the caller: "keys" with at least one key, or "none". With `authz` its
    `identity.trusted_proxies` are who is answered; see `policy.authz`.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        access_log: RecordSink | None = None,
        metrics: Metrics | None = None,
        authz: bool = False,
        traces: TraceSink | None = None,
    ) -> None:
        if policy.auth == "keys" and not (policy.keys or policy.credentials.store or policy.jwt.key_settings):
            raise PolicyError(
                'auth is "keys", but no key is configured: add a [[keys]] entry, a credentials.store or a [jwt].'
            )
        self._policy = policy
        self._authz = authz
        self._access_log = access_log
        self._metrics = metrics
        self._traces = traces
        self._endpoint: Endpoint = parse_endpoint(policy.listen.address)
        self._proxies = Identity(policy.identity.trusted_proxies, policy.identity.header)
        self._server: asyncio.Server | None = None
        self._listener: Listener | None = None
        self._core: Core | None = None
        self._built: _Built | None = None
        self._certificate: Certificate | None = None
        self.address: tuple[str, int] = (self._endpoint.host, self._endpoint.port)

    async def start(self, *, ask_servers: bool = True) -> None:
        """Ask the servers how many slots they have, two seconds at most, and listen.

        Raises:
            ListenError: the address cannot be had.
            PolicyError: the certificate, or the key of `[jwt]`, cannot be used.
            StoreError: the key store is there, or the file of spent budgets wanted, but cannot be used.

        """
        policy = with_shadow(self._policy)
        loop = asyncio.get_running_loop()
        context = load_certificate(policy.listen)
        self._certificate = None if context is None else Certificate(context)
        built = self._built = self._build(policy)
        core = self._core = Core(
            policy, built.pipeline, loop, access_log=self._access_log, metrics=self._metrics, traces=self._traces
        )
        if ask_servers and not self._authz:
            await core.upstreams.learn()
        connect = self._answer_proxy if self._authz else ClientConnection
        listener = self._listener = Listener(core, connect, proxies=self._proxies, tls=context)
        try:
            self._server = await loop.create_server(
                listener.connection,
                self._endpoint.host,
                self._endpoint.port,
                backlog=1024,
            )
        except OSError as error:
            raise ListenError(
                f"Cannot listen on {policy.listen.address}: {os.strerror(error.errno) if error.errno else error}. "
                "Choose another address with --listen."
            ) from error
        self.address = self._server.sockets[0].getsockname()[:2]
        listener.start()
        if self._metrics is not None:
            show_state(self._metrics, core, listener, lambda: self.store)

    def _answer_proxy(self, core: Core, listener: Listener) -> ClientConnection:
        identity = self._policy.identity
        return AuthzConnection(core, listener, self._proxies, identity.header.encode())

    async def reload(self, policy: Policy) -> None:
        """Take another policy, whole or not at all: what is asked from now on is judged by it.

        Counts, running and waiting requests, and open connections stay. `policy.auth` is resolved, as at the start;
        what `policy.changes.refuse_change` names must not have changed.

        Raises:
            PolicyError: it cannot be used; everything is as it was.
            StoreError: the key store cannot be used; as above.

        """
        core, listener, before = self._core, self._listener, self._built
        if core is None or listener is None or before is None:
            raise PolicyError("The guard does not run yet, or not any more.")
        refuse_change(self._policy, policy)
        if self._authz and policy.identity != self._policy.identity:
            raise RestartError("[identity] says which proxies are answered, and has changed, which takes a restart.")
        context = load_certificate(policy.listen)
        tried = with_shadow(policy)
        built = self._build(tried, before)
        # From here on nothing may fail, and nothing else runs in between.
        now = core.now()
        built.logins.adopt(before.logins, now)
        if before.budgets is not None and before.budgets is built.budgets:
            before.budgets.tick(now, time.time())
        elif before.budgets is not None:
            before.budgets.close(now, time.time())
        before.pipeline.succeeded(built.pipeline, built.store.adopt(before.store, now))
        if before.budgets is not None and before.budgets is built.budgets:
            before.budgets.follow(built.store)
        elif built.budgets is not None:
            built.store.tell_all()
        core.reload(tried, built.pipeline)
        if self._certificate is not None and context is not None:
            self._certificate.renew(context)
        self._policy, self._built = policy, built
        self._proxies = Identity(policy.identity.trusted_proxies, policy.identity.header)
        listener.reloaded(self._proxies)
        await before.authenticator.close(built.authenticator)

    def _build(self, policy: Policy, before: "_Built | None" = None) -> "_Built":
        """Build what judges requests. `before` is what judges them now, which stays as it is."""
        open_to_all = policy.auth != "keys"
        store = MemoryStore(limits_from(all_limits(policy)), capacity=policy.bounds.max_clients)
        logins = Logins(policy.max_failed_logins, capacity=policy.bounds.max_clients)
        authenticator = _authenticate(policy, before.authenticator if before is not None else None)
        kept = before.budgets if before is not None else None
        if kept is None or policy.budgets != self._policy.budgets:
            kept = Budgets.open(policy, store)
        pipeline = Pipeline(
            policy,
            dialect(policy.upstream.dialect),
            store,
            logins,
            open_to_all=open_to_all,
            check_host=open_to_all and self._endpoint.is_loopback and not self._authz,  # whoever asks is known
            authenticator=authenticator,
            budgets=kept,
        )
        return _Built(pipeline, store, logins, authenticator, kept)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    def servers(self) -> list[str]:
        """Say what is known of the servers: their slots, and how many requests run at once for that."""
        return describe_servers(self._core.upstreams) if self._core else []

    @property
    def core(self) -> Core:
        """What all connections share, once it has started."""
        assert self._core is not None
        return self._core

    @property
    def listener(self) -> Listener:
        """The open connections, once it has started."""
        assert self._listener is not None
        return self._listener

    @property
    def store(self) -> MemoryStore:
        """What counts now, once it has started."""
        assert self._built is not None
        return self._built.store

    @property
    def authenticator(self) -> Authenticator:
        """What judges keys now, once it has started."""
        assert self._built is not None
        return self._built.authenticator

    @property
    def running(self) -> int:
        """How many requests hold a place of the server."""
        return self._core.admission.running if self._core else 0

    @property
    def waiting(self) -> int:
        """How many requests wait for a place."""
        return self._core.admission.waiting if self._core else 0

    @property
    def connections(self) -> int:
        """How many client connections are open."""
        return len(self._listener) if self._listener else 0

    async def stop(self, timeout: float | None = None) -> None:
        """Stop: no new connections; running requests get `timeout` seconds (the policy's if None) to finish."""
        if self._server is None or self._listener is None or self._core is None:
            await self._let_go()
            return
        self._server.close()
        patience = self._policy.bounds.shutdown_timeout if timeout is None else timeout
        await self._listener.drain(patience)
        self._listener.stop()
        await self._core.upstreams.close()
        self._server = None
        await self._let_go()

    async def _let_go(self) -> None:
        built, self._built = self._built, None
        if built is None:
            return
        if built.budgets is not None:
            built.budgets.close(asyncio.get_running_loop().time(), time.time())
        await built.authenticator.close()


@dataclass(frozen=True, slots=True)
class _Built:
    """What judges requests by one policy."""

    pipeline: Pipeline
    store: MemoryStore
    logins: Logins
    authenticator: Authenticator
    budgets: Budgets | None


def _authenticate(policy: Policy, before: Authenticator | None) -> Authenticator:
    ring = KeyRing(policy.keys)
    watch = tokens = None
    if policy.auth == "keys" and policy.jwt.key_settings:
        tokens = _tokens(policy.jwt, before.tokens if before is not None else None)
    if policy.auth == "keys" and policy.credentials.store:
        watch = KeyWatch(Path(policy.credentials.store), ring)
        watch.start()
    generation = before.generation + 1 if before is not None else 0
    return Authenticator(ring, policy.plan, watch=watch, tokens=tokens, generation=generation)


def _tokens(jwt: Jwt, before: TokenJudge | None) -> TokenJudge:
    try:
        from corral.guard.tokens.tokens import Tokens  # noqa: PLC0415  # joserfc is loaded, and needed, only here
    except ModuleNotFoundError as error:
        raise PolicyError(f"[jwt] needs {error.name}, which is not installed: pip install 'corral[jwt]'") from None
    return Tokens.from_policy(jwt, asyncio.get_running_loop(), before if isinstance(before, Tokens) else None)
