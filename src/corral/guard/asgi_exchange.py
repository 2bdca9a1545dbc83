"""One request to an ASGI application: its body, its wait for a place, the application's answer, and its end."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio

from corral.engine.admission import Refused, Waiting
from corral.guard.call import CURRENT, Call
from corral.guard.door import Door
from corral.guard.refusal import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_REPLACED = frozenset((b"content-length", b"content-type", b"content-encoding", b"transfer-encoding", b"expect"))
"""Header fields that spoke of the client's own body, which the application does not get."""

_DISCONNECT = "http.disconnect"

Waiters = dict[Call, "asyncio.Future[float | None]"]
"""Who waits for a place: answered by None where there is one, else by when to come back, in seconds."""


class Exchange:
    """A request between the server and the application. It is ended exactly once, on every path."""

    def __init__(self, door: Door, call: Call, waiters: Waiters, scope: Scope, receive: Receive, send: Send) -> None:
        self._door = door
        self._call = call
        self._waiters = waiters
        self._scope = scope
        self._server_receive = receive
        self._server_send = send
        self._body: bytes | None = None
        self._left = asyncio.Event()
        self._cancelling: anyio.CancelScope | None = None
        self._too_large = False
        self._begun = False
        self._complete = False
        self._refused = False

    async def run(self, app: App, host: str) -> None:
        """Serve the request, or refuse it."""
        call = self._call
        try:
            verdict = self._door.enter(call, host)
            if isinstance(verdict, Refusal):
                await self._refuse(verdict)
            elif verdict is None:
                await self._serve(app, self._scope, self._server_receive)
            elif verdict.route.form is None:
                await self._serve(app, self._scope, self._receive_counted)
            else:
                body = await self._read_body()
                prepared = self._door.prepare(call, body) if isinstance(body, bytes) else body
                if isinstance(prepared, Refusal):
                    await self._refuse(prepared)
                elif prepared is not None:
                    self._body = prepared
                    await self._serve_prepared(app, len(prepared), in_place=verdict.needs_place)
        finally:
            self._door.finish(call, "client-left")

    # the body

    async def _read_body(self) -> bytes | Refusal | None:
        """Read the whole body within its bounds; None if the client has left."""
        call, bounds = self._call, self._door.policy.bounds
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(bounds.body_timeout):
                more = True
                while more:
                    message = await self._server_receive()
                    if message["type"] == _DISCONNECT:
                        return None
                    parts.append(message.get("body", b""))
                    call.bytes_in += len(parts[-1])
                    if call.bytes_in > bounds.max_body:
                        return self._door.too_large(call)
                    more = message.get("more_body", False)
        except TimeoutError:
            return self._door.too_slow(call)
        return b"".join(parts)

    async def _receive_counted(self) -> Message:
        """Pass on a body that the guard does not read, up to its bound; there the client has left, for the app."""
        if self._too_large:
            return {"type": _DISCONNECT}
        message = await self._server_receive()
        if message["type"] == "http.request":
            self._call.bytes_in += len(message.get("body", b""))
            self._too_large = self._call.bytes_in > self._door.policy.bounds.max_body
        return {"type": _DISCONNECT} if self._too_large else message

    async def _receive_prepared(self) -> Message:
        """Pass on what the guard made of the body, then that the client has left."""
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": _DISCONNECT}

    async def _watch(self, scope: anyio.CancelScope) -> None:
        """Cancel what runs for a client that has left."""
        while (await self._server_receive())["type"] != _DISCONNECT:
            pass
        self._left.set()
        if not self._complete:
            scope.cancel()

    # the application

    async def _serve_prepared(self, app: App, length: int, *, in_place: bool) -> None:
        """Give the application the body that was prepared, and no other reading of the request."""
        headers = [field for field in self._scope["headers"] if bytes(field[0]).lower() not in _REPLACED]
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % length)]
        scope = {**self._scope, "headers": headers, "query_string": b""}
        # A thread goes on when its handler is cancelled: anyio's scope waits for it, cancelling the task would not.
        limit = self._door.policy.bounds.total_timeout if in_place else float("inf")
        with anyio.CancelScope(deadline=anyio.current_time() + limit) as cancelling:
            self._cancelling = cancelling
            watcher = asyncio.get_running_loop().create_task(self._watch(cancelling))
            try:
                if not in_place or await self._have_place():
                    await self._serve(app, scope, self._receive_prepared)
            finally:
                watcher.cancel()
        if cancelling.cancel_called and not self._left.is_set():
            if self._begun:
                self._door.finish(self._call, "timed-out")
            else:
                await self._refuse(self._door.timed_out(self._call))

    async def _have_place(self) -> bool:
        """Wait for a place; False where there is none, and the client has been told."""
        call, door = self._call, self._door
        outcome = door.ask_for_place(call)
        wait: float | None = None
        if isinstance(outcome, Refused):
            wait = outcome.retry_after
        elif isinstance(outcome, Waiting):
            waiter = self._waiters[call] = asyncio.get_running_loop().create_future()
            try:
                for displaced in outcome.displaced:
                    turn_away(self._waiters, displaced, door.admission.expected_wait())
                wait = await waiter
            finally:
                del self._waiters[call]
        if wait is not None:
            await self._refuse(door.no_place(call, wait))
            return False
        call.place_at = door.now()
        return True

    async def _serve(self, app: App, scope: Scope, receive: Receive) -> None:
        """Run the application. Where a limit of its own refuses, the answer is 429 whatever it makes of that."""
        call = self._call
        token = CURRENT.set(call)
        try:
            await app(scope, receive, self._send)
        except Exception:
            if not await self._refused_instead():
                call.status = call.status if self._begun else 500
                self._broke_off()
                raise
        else:
            if not await self._refused_instead():
                self._broke_off()
        finally:
            CURRENT.reset(token)

    def _broke_off(self) -> None:
        """End a request that the application left without a whole answer."""
        self._door.finish(self._call, "client-left" if self._left.is_set() else "upstream-failed")

    async def _refused_instead(self) -> bool:
        """Refuse the request if that is due and nothing was sent yet; tells whether it was refused."""
        refusal = self._due()
        if refusal is not None and not self._begun and not self._refused:
            await self._refuse(refusal)
        return self._refused

    def _due(self) -> Refusal | None:
        """Find what the application's answer is to be replaced by."""
        if self._call.over is not None:
            return self._call.over
        return self._door.too_large(self._call) if self._too_large else None

    async def _send(self, message: Message) -> None:
        """Pass a message of the application on, with the guard's headers."""
        call = self._call
        if self._refused:
            return
        if message["type"] == "http.response.start":
            if await self._refused_instead():
                return
            self._begin(message)
            own = self._door.answers.headers(call)
            names = {name for name, _ in own}
            kept = [field for field in message.get("headers", ()) if bytes(field[0]).lower() not in names]
            message = {**message, "headers": [*kept, *own]}
        elif message["type"] == "http.response.body":
            if call.usage is not None:
                call.usage.take(message.get("body", b""))
            if not message.get("more_body", False):
                self._complete = True
                self._door.finish(call, "answered")
        await self._pass_on(message)

    async def _pass_on(self, message: Message) -> None:
        """Send a message; a client that does not read on in time has left, if it holds a place."""
        if self._cancelling is None:
            await self._server_send(message)
            return
        try:
            async with asyncio.timeout(self._door.policy.bounds.write_timeout):
                await self._server_send(message)
        except TimeoutError:
            self._left.set()
            self._cancelling.cancel()

    def _begin(self, message: Message) -> None:
        call = self._call
        self._begun = True
        call.status = message["status"]
        call.first_byte = self._door.now()
        if call.usage is not None:
            fields = message.get("headers", ())
            kind = next((value for name, value in fields if bytes(name).lower() == b"content-type"), b"")
            call.usage.began(call.status, bytes(kind))

    async def _refuse(self, refusal: Refusal) -> None:
        """Answer with a refusal. A connection whose body was not read to its end is closed."""
        unread = refusal.kind in ("payload_too_large", "timeout", "bad_http")
        close = unread and self._scope.get("http_version", "1.1") in ("1.0", "1.1")
        status, headers, body = self._door.render(self._call, refusal, close=close)
        self._refused = self._complete = True
        await self._server_send({"type": "http.response.start", "status": status, "headers": headers})
        await self._server_send({"type": "http.response.body", "body": body})


def turn_away(waiters: Waiters, call: Call, retry_after: float) -> None:
    """Tell who waits for a place that there will be none."""
    waiter = waiters.get(call)
    if waiter is not None and not waiter.done():
        waiter.set_result(retry_after)
