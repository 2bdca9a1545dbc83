"""A TLS handshake: counted as a connection from the first moment, though no request can come of it yet.

Where the loop itself speaks TLS, a protocol hears of a connection when the handshake is done, so that any number could
be left half open. Here the connection is taken in first, and TLS begins behind that.
"""

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from corral.guard.gateway.connection import ClientConnection
    from corral.guard.gateway.core import Core
    from corral.guard.gateway.listener import Listener


class Handshake:
    """One handshake, then the connection that comes of it; an `asyncio.Protocol` by its methods.

    The policy's `head_timeout` is the time it may take.
    """

    def __init__(
        self,
        core: "Core",
        listener: "Listener",
        context: ssl.SSLContext,
        connect: "Callable[[Core, Listener], ClientConnection]",
    ) -> None:
        self._connect = connect
        self._core = core
        self._listener = listener
        self._context = context
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._early: list[bytes] = []
        self._connection: ClientConnection | None = None
        self._address = ""
        self._lost = False
        self._shaking: Coroutine[Any, None, asyncio.Transport | None]
        self.deadline = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many connections already."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._address = self._core.pipeline.session(peer[0] if isinstance(peer, tuple) else "").peer
        self.deadline = self._core.now() + self._core.policy.bounds.head_timeout
        if not self._listener.opened(self, self._address):
            self._transport.abort()
            return
        self._shaking = self._core.loop.start_tls(
            self._transport,
            cast("asyncio.Protocol", self),
            self._context,
            server_side=True,
            ssl_handshake_timeout=self._core.policy.bounds.head_timeout,
        )
        self._shake()

    def _shake(self, _: "asyncio.Future[None] | None" = None) -> None:
        """Go on with the handshake, by hand: a task would begin it a turn later, after the first bytes were read."""
        secured = None
        try:
            waited_for = cast("asyncio.Future[None]", self._shaking.send(None))
        except StopIteration as done:
            secured = cast("asyncio.Transport", done.value)
        except (OSError, RuntimeError):  # uvloop raises the latter where the transport has been closed
            self._transport.abort()  # no TLS, or not in time: nobody can be told why
        else:
            waited_for.add_done_callback(self._shake)
            return
        self._listener.closed(self, self._address)
        if secured is not None and not self._lost:
            self._go_on(secured)

    def _go_on(self, secured: asyncio.Transport) -> None:
        """Hand the connection over, with what has come behind the handshake."""
        connection = self._connection = self._connect(self._core, self._listener)
        secured.set_protocol(cast("asyncio.BaseProtocol", connection))
        connection.connection_made(secured)
        for data in self._early:
            if not secured.is_closing():
                connection.data_received(data)
        self._early.clear()

    # asyncio's callbacks, between the handshake's end and the next turn of the loop

    def data_received(self, data: bytes) -> None:
        """Keep what comes right behind the handshake."""
        self._early.append(data)

    def eof_received(self) -> bool:
        """Close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that there is nobody any more; the handshake fails by itself."""
        self._lost = True
        if self._connection is not None:
            self._connection.connection_lost(exc)  # it was on its way when the connection was handed over

    def pause_writing(self) -> None:
        """Nothing: nothing is written yet."""

    def resume_writing(self) -> None:
        """Nothing: see `pause_writing`."""

    # what the listener asks of a connection

    def overdue(self) -> None:
        """Give up."""
        self.abort()

    def drain(self) -> None:
        """Give up: nothing is under way."""
        self.abort()

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()
        self._shaking.close()
        self._listener.closed(self, self._address)

    def reloaded(self) -> None:
        """Nothing: the connection that comes of it begins with the new policy."""
