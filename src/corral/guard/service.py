"""A guard, put together from a policy: what the command line starts and stops."""

import asyncio
import os
import ssl
import time
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
from corral.guard.traces.context import TraceSink
from corral.policy.address import Endpoint, parse_endpoint
from corral.policy.model import Jwt, Policy
from corral.policy.plans import all_limits
from corral.stores.memory import MemoryStore


class ListenError(CorralError):
    """The address to listen on cannot be had."""

    exit_code = 3


class Guard:
    """One guard in front of one inference server; with `authz` in front of none: it tells proxies what may go on.

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
        self._authenticator: Authenticator | None = None
        self._budgets: Budgets | None = None
        self.address: tuple[str, int] = (self._endpoint.host, self._endpoint.port)

    async def start(self) -> None:
        """Listen.

        Raises:
            ListenError: the address cannot be had.
            PolicyError: the certificate, or the key of `[jwt]`, cannot be used.
            StoreError: the key store is there, or the file of spent budgets wanted, but cannot be used.

        """
        policy = self._policy
        loop = asyncio.get_running_loop()
        store = MemoryStore(limits_from(all_limits(policy)), capacity=policy.bounds.max_clients)
        open_to_all = policy.auth != "keys"
        budgets = self._budgets = Budgets.open(policy, store)
        pipeline = Pipeline(
            policy,
            dialect(policy.upstream.dialect),
            store,
            Logins(policy.max_failed_logins, capacity=policy.bounds.max_clients),
            open_to_all=open_to_all,
            check_host=open_to_all and self._endpoint.is_loopback and not self._authz,  # whoever asks is known
            authenticator=self._authenticate(loop),
            budgets=budgets,
        )
        core = self._core = Core(
            policy, pipeline, loop, access_log=self._access_log, metrics=self._metrics, traces=self._traces
        )
        listener = self._listener = Listener(
            core, self._answer_proxy if self._authz else ClientConnection, proxies=self._proxies
        )
        try:
            self._server = await loop.create_server(
                listener.connection,
                self._endpoint.host,
                self._endpoint.port,
                ssl=self._tls(),
                backlog=1024,
                ssl_handshake_timeout=policy.bounds.head_timeout if policy.listen.tls_certificate else None,
            )
        except OSError as error:
            raise ListenError(
                f"Cannot listen on {policy.listen.address}: {os.strerror(error.errno) if error.errno else error}. "
                "Choose another address with --listen."
            ) from error
        self.address = self._server.sockets[0].getsockname()[:2]
        listener.start()
        if self._metrics is not None:
            show_state(self._metrics, core, listener, store)

    def _answer_proxy(self, core: Core, listener: Listener) -> ClientConnection:
        identity = self._policy.identity
        return AuthzConnection(core, listener, self._proxies, identity.header.encode())

    def _authenticate(self, loop: asyncio.AbstractEventLoop) -> Authenticator:
        policy = self._policy
        ring = KeyRing(policy.keys)
        watch = tokens = None
        if policy.auth == "keys" and policy.credentials.store:
            watch = KeyWatch(Path(policy.credentials.store), ring)
            watch.start()
        if policy.auth == "keys" and policy.jwt.key_settings:
            tokens = _tokens(policy.jwt, loop)
        self._authenticator = Authenticator(ring, policy.plan, watch=watch, tokens=tokens)
        return self._authenticator

    def _tls(self) -> ssl.SSLContext | None:
        listen = self._policy.listen
        if listen.tls_certificate is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(Path(listen.tls_certificate), Path(listen.tls_key or listen.tls_certificate))
        except (OSError, ssl.SSLError) as error:
            raise PolicyError(
                f"The TLS certificate {listen.tls_certificate} cannot be used: {error}. "
                "listen.tls_certificate and listen.tls_key must be readable PEM files that belong together."
            ) from error
        return context

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
        await self._core.pool.close()
        self._server = None
        await self._let_go()

    async def _let_go(self) -> None:
        budgets, self._budgets = self._budgets, None
        if budgets is not None:
            budgets.close(asyncio.get_running_loop().time(), time.time())
        authenticator, self._authenticator = self._authenticator, None
        if authenticator is not None:
            await authenticator.close()


def _tokens(jwt: Jwt, loop: asyncio.AbstractEventLoop) -> TokenJudge:
    try:
        from corral.guard.tokens.tokens import Tokens  # noqa: PLC0415  # joserfc is loaded, and needed, only here
    except ModuleNotFoundError as error:
        raise PolicyError(f"[jwt] needs {error.name}, which is not installed: pip install 'corral[jwt]'") from None
    return Tokens.from_policy(jwt, loop)
