"""Who may connect, and for how long: the open connections, their bounds, and the one tick that ends the overdue."""

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from corral.guard.gateway.connection import ClientConnection
from corral.guard.gateway.exchange import Exchange
from corral.guard.gateway.handshake import Handshake
from corral.guard.identity import Identity

if TYPE_CHECKING:
    from corral.guard.gateway.core import Core

TICK = 0.25
"""Seconds between looks at the deadlines: a timer for each request would cost more than all of them together."""


class Open(Protocol):
    """What counts as an open connection: a client's, or a handshake that may become one."""

    deadline: float

    def overdue(self) -> None:
        """Its deadline has passed."""

    def reloaded(self) -> None:
        """Another policy is in force."""

    def drain(self) -> None:
        """The guard stops: close as soon as nothing is under way."""

    def abort(self) -> None:
        """Close now."""


class Listener:
    """Keeps the open connections of one guard. `connect` builds each: whose requests are relayed, or only judged.

    The connections of `proxies` are bounded in all alone: one of them brings many clients from its one address. With
    `tls` each is secured first.
    """

    def __init__(
        self,
        core: "Core",
        connect: Callable[["Core", "Listener"], ClientConnection] = ClientConnection,
        *,
        proxies: Identity | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._core = core
        self._connect = connect
        self._proxies = proxies or Identity()
        self._tls = tls
        self._connections: set[Open] = set()
        self._by_address: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self.turned_away = 0

    def __len__(self) -> int:
        return len(self._connections)

    def connection(self) -> asyncio.BaseProtocol:
        """Build the protocol for a new connection."""
        if self._tls is not None:
            return cast("asyncio.BaseProtocol", Handshake(self._core, self, self._tls, self._connect))
        return cast("asyncio.BaseProtocol", self._connect(self._core, self))

    def opened(self, connection: Open, address: str) -> bool:
        """Take a connection in; False where there are too many, in all or from its address."""
        bounds = self._core.policy.bounds
        if len(self._connections) >= bounds.max_connections or (
            self._by_address[address] >= bounds.max_connections_per_address and not self._proxies.trusts(address)
        ):
            self.turned_away += 1
            return False
        self._connections.add(connection)
        self._by_address[address] += 1
        return True

    def closed(self, connection: Open, address: str) -> None:
        """Forget a connection."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._by_address[address] -= 1
            if self._by_address[address] <= 0:
                del self._by_address[address]

    def exchanges(self) -> list[Exchange]:
        """List the requests that wait for a place or have one."""
        found = []
        for connection in self._connections:
            exchange = connection.exchange if isinstance(connection, ClientConnection) else None
            if exchange is not None:
                found.append(exchange)
        return found

    def reloaded(self, proxies: Identity) -> None:
        """Let every connection follow the policy that is in force now; `proxies` are those that it trusts."""
        self._proxies = proxies
        for connection in self._connections:
            connection.reloaded()

    def start(self) -> None:
        """Begin to tick."""
        self._timer = self._core.loop.call_later(TICK, self._tick)

    def stop(self) -> None:
        """Tick no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        core = self._core
        self._timer = core.loop.call_later(TICK, self._tick)
        now = core.now()
        core.tick()
        for connection in [c for c in self._connections if c.deadline <= now]:
            connection.overdue()
        core.expire(now)

    async def drain(self, timeout: float) -> None:
        """Let running requests finish, at most `timeout` seconds; then close what is left."""
        self._core.draining = True
        for connection in list(self._connections):
            connection.drain()
        end = self._core.now() + timeout
        while self._connections and self._core.now() < end:  # noqa: ASYNC110  # once, at shutdown
            await asyncio.sleep(0.02)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)
