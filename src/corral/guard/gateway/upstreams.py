"""The servers that are guarded: which are well, how many slots each has, and which one a request goes to."""

import asyncio
import logging
import math
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from corral.dialects.model import Route
from corral.dialects.table import TableDialect
from corral.engine.balance import Balance, Load
from corral.engine.circuit import Circuit
from corral.guard.gateway.outbox import Outbox
from corral.guard.gateway.probe import Probe, Probed
from corral.guard.gateway.upstream import UpstreamPool
from corral.policy.model import DEFAULT_PLACES, HealthChecks, Policy, Upstream
from corral.policy.servers import servers

_log = logging.getLogger("corral.guard")

_UNTOLD: Final = 1
"""Slots of a server that says how many it has, until it has said it: more might queue inside it."""

_FIRST_LOOK: Final = 2.0
"""Seconds that a start waits for the servers to say how many slots they have."""

_LOADING: Final = 503

_random = random.SystemRandom()


class UpstreamServer:
    """One server: its connections, its slots, its health."""

    def __init__(
        self,
        name: str,
        place: int,
        settings: Upstream,
        pool: UpstreamPool,
        health: HealthChecks,
        *,
        slots: int,
        to_be_told: bool,
    ) -> None:
        self.name = name
        self.place = place
        self.settings = settings
        self.pool = pool
        self.load = Load(slots)
        self.circuit = Circuit(health.failures, health.pause, health.max_pause)
        self.failures = 0
        """All failures since the start."""
        self.to_be_told = to_be_told
        """Whether nothing but the server itself says how many slots it has."""
        self.told: int | None = None
        """The slots that the server itself said to have, the last time it was asked."""
        self.reason = ""
        """What is wrong with it, or was the last time that something was."""
        self.found = Probed(0)
        """What the last probe found."""
        self.found_at = float("-inf")
        self._heads: dict[Route, bytes] = {}

    def reload(self, settings: Upstream, slots: int, *, to_be_told: bool) -> None:
        """Take other settings of the same server. `slots` is how many it has, unless it says so itself."""
        self.settings = settings
        self.to_be_told = to_be_told
        self.pool.reload(settings)
        self._heads.clear()
        told = self.told if settings.slots is None else None
        self.load.slots = slots if told is None else min(told, settings.max_connections - 1)

    def request_head(self, route: Route, length: int) -> bytes:
        """Write the head of a request to this server. No byte of it comes from the client."""
        start = self._heads.get(route)
        if start is None:
            host = self.pool.host_header
            start = b"%b %b HTTP/1.1\r\nHost: %b\r\nAccept: */*\r\n" % (route.method, route.path, host)
            api_key = self.settings.api_key
            if api_key:
                start += b"Authorization: Bearer %b\r\n" % api_key.encode()
            self._heads[route] = start
        if route.method == b"GET":
            return start + b"\r\n"
        return b"%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (start, length)

    def question_head(self, path: bytes, length: int) -> bytes:
        """Write the head of a question of the guard's own to this server."""
        key = self.settings.api_key
        return (
            b"POST %b HTTP/1.1\r\nHost: %b\r\nAccept: */*\r\n%bContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n"
        ) % (path, self.pool.host_header, b"Authorization: Bearer %b\r\n" % key.encode() if key else b"", length)


class Upstreams:
    """All servers of one guard.

    `changed` is called whenever there may be more places than before, or fewer; never from within `choose` and `take`.
    """

    def __init__(
        self,
        policy: Policy,
        dialect: TableDialect,
        loop: asyncio.AbstractEventLoop,
        outbox: Outbox,
        changed: Callable[[], None],
    ) -> None:
        named = servers(policy)
        self._dialect = dialect
        self.ask_for_keys = dialect.asks_for_keys
        self._health = policy.health
        self._changed = changed
        self._now = loop.time
        self._told: list[Callable[[], None]] = []
        self.asking = False
        """Whether servers are asked of the guard's own accord: from `learn` on."""
        most = policy.concurrency.max_running
        share = None if most is None else -(-most // len(named))
        self.servers: tuple[UpstreamServer, ...] = tuple(
            UpstreamServer(
                name,
                place,
                settings,
                UpstreamPool(settings, loop, outbox),
                policy.health,
                slots=_slots_until_told(settings, dialect, share),
                to_be_told=bool(dialect.slots_path) and settings.slots is None and share is None,
            )
            for place, (name, settings) in enumerate(named.items())
        )
        self.balance = Balance([server.load for server in self.servers], most)
        self.away = False
        """Whether there is no server that requests may be sent to."""
        path = policy.health.path.encode() if policy.health.path else dialect.health_path
        self._probes = tuple(self._probe(server, path, dialect.slots_path) for server in self.servers)

    def reload(self, policy: Policy) -> None:
        """Take another policy, of the same servers. There may be more places then, or fewer."""
        named = servers(policy)
        most = policy.concurrency.max_running
        share = None if most is None else -(-most // len(named))
        for server, settings in zip(self.servers, named.values(), strict=True):
            server.reload(
                settings,
                _slots_until_told(settings, self._dialect, share),
                to_be_told=bool(self._dialect.slots_path) and settings.slots is None and share is None,
            )
            self._probes[server.place].reload(settings.api_key)
        self.balance.bound(most)

    def _probe(self, server: UpstreamServer, path: bytes, slots_path: bytes) -> Probe:
        def done(found: Probed) -> None:
            self._probed(server, found)

        return Probe(server.pool, path, slots_path, server.settings.api_key, done)

    @property
    def open_connections(self) -> int:
        """How many connections to the servers are open or being opened."""
        return sum(server.pool.open_connections for server in self.servers)

    def retry_after(self, now: float) -> float:
        """Predict when a server may be well again, in seconds, ≥ 1: when the first is asked next."""
        return max(1.0, min(server.circuit.retry_at for server in self.servers) - now)

    def reason(self) -> str:
        """Say what is wrong with the server that is asked next."""
        return min(self.servers, key=lambda server: server.circuit.retry_at).reason

    # what requests find

    def unreachable(self, server: UpstreamServer, reason: str) -> bool:
        """Note that no connection could be opened. True if another server should be asked in its stead.

        Where there are others, one refused connection is enough to leave it alone for a while.
        """
        others = any(other.load.usable for other in self.servers if other is not server)
        self._failed(server, reason, certain=others)
        return others

    def broke(self, server: UpstreamServer, reason: str) -> None:
        """Note that a server did not answer as it should; it is asked at once whether it is well.

        Its idle connections are closed: if it has died, what was sent there could not be sent to another one.
        """
        server.pool.prune(math.inf)
        self._failed(server, reason)
        self.suspect(server)

    def suspect(self, server: UpstreamServer) -> None:
        """Ask a server at once whether it is well: its answer was that of a gateway, or of one that is overloaded."""
        self._start(server, self._now())

    def _failed(self, server: UpstreamServer, reason: str, *, certain: bool = False) -> None:
        server.failures += 1
        server.reason = reason
        if server.circuit.failed(self._now(), _random.random(), certain=certain):
            self._opened(server)

    def _opened(self, server: UpstreamServer) -> None:
        server.load.usable = False
        self.away = not self.balance.usable
        _log.warning("The server %s gets no requests for a while: %s.", server.name, server.reason)
        self._changed()

    # what probes find

    def tick(self, now: float) -> None:
        """Ask whom it is time to ask, and close idle connections; to be called a few times a second."""
        if not self.asking:
            return
        health = self._health
        for server in self.servers:
            self._probes[server.place].expire(now, health.timeout)
            circuit = server.circuit
            interval = min(health.interval, health.pause) if circuit.failures else health.interval
            if circuit.may_probe(now) or (circuit.closed and now - server.found_at >= interval):
                self._start(server, now)
            server.pool.prune(now)

    def _start(self, server: UpstreamServer, now: float) -> None:
        probe = self._probes[server.place]
        if not probe.under_way and not server.pool.full:
            server.circuit.probe(now)
            probe.start(now)

    def ask(self, told: Callable[[], None]) -> None:
        """Ask all servers now whether they are well; `told` is called when all have been asked. Perhaps at once."""
        self._told.append(told)
        now = self._now()
        for server in self.servers:
            self._start(server, now)
        self._tell()

    def _tell(self) -> None:
        if not any(probe.under_way for probe in self._probes):
            told, self._told = self._told, []
            for tell in told:
                tell()

    async def learn(self) -> None:
        """Ask all servers how many slots they have; those that are silent for two seconds are asked later."""
        self.asking = True
        all_asked = asyncio.Event()
        self.ask(all_asked.set)
        with suppress(TimeoutError):
            await asyncio.wait_for(all_asked.wait(), _FIRST_LOOK)

    def _probed(self, server: UpstreamServer, found: Probed) -> None:
        now = self._now()
        server.found, server.found_at = found, now
        if found.well:
            self._learn(server, found.slots)
            if server.circuit.well(now):
                server.load.usable = True
                self.away = False
                _log.warning("The server %s is back.", server.name)
                self._changed()
        else:
            server.failures += 1
            said = found.status >= 500
            server.reason = found.reason or (
                "the server is still loading"
                if found.status == _LOADING
                else f"the server answered {found.status} when it was asked whether it is well"
            )
            if server.circuit.probe_failed(now, _random.random(), certain=said, grow=not said):
                self._opened(server)
        self._tell()

    def _learn(self, server: UpstreamServer, slots: int | None) -> None:
        """Take over what a server says of itself, unless the policy says how many slots it has."""
        if slots is None or slots == server.told:
            return
        server.told = slots
        if server.settings.slots is None:
            server.load.slots = min(slots, server.settings.max_connections - 1)
            self._changed()

    async def close(self) -> None:
        """Close every connection, and ask nobody any more."""
        for probe in self._probes:
            probe.stop()
        for server in self.servers:
            await server.pool.close()


def _slots_until_told(settings: Upstream, dialect: TableDialect, share: int | None) -> int:
    """Say how many slots a server has, as far as that is known without asking it.

    `share` is the operator's maximum in all, divided among the servers; it stands where nothing else does.
    """
    if dialect.slots is not None:
        return dialect.slots
    if settings.slots is not None:
        return settings.slots
    if share is not None:
        return share
    return _UNTOLD if dialect.slots_path else DEFAULT_PLACES
