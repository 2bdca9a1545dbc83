"""The guard inside an ASGI application: FastAPI, Starlette, Litestar, or any other."""

import asyncio
import os
from collections.abc import Mapping

from corral.errors import CorralError
from corral.guard.app_routes import Unknown
from corral.guard.asgi_exchange import App, Exchange, Message, Receive, Scope, Send, Waiters, turn_away
from corral.guard.call import CURRENT, Call
from corral.guard.door import TICK, Door
from corral.guard.door_policy import PolicySource, read_policy
from corral.guard.limit import LimitExceeded, handlers_of, refuse_unlimited
from corral.guard.metrics import Metrics
from corral.guard.record import RecordSink
from corral.guard.refusal import Refusal

_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


class Guard:
    """Guards an ASGI application by a policy: `app.add_middleware(corral.Guard, policy="corral.toml")`.

    The same decisions as `corral guard`, without a server of its own: routes, credentials, quotas, a bounded body,
    strict JSON, clamped generation, places with a fair queue, rate-limit headers, the log. `[listen]`, `[upstream]`
    (but for its dialect) and `[admin]` are not used. `policy` is a path, a `Policy`, or nothing: the defaults, which
    let in this machine alone until keys are configured or `auth = "none"` is written.

    `routes` names the dialect's route that a path of the application is, as `{"/generate": "completion"}`. On all
    other paths, `unknown="limit"` asks for credentials and counts requests, `"pass"` does nothing, `"deny"` answers
    404. Websockets are refused unless `websockets=True`; then their handshake is judged, and no message.

    `records` takes the place of the policy's log; `metrics` counts, too.

    Its state lives on one event loop, that of asyncio, in one process: each worker process counts for itself.

    Raises:
        PolicyError: the policy is wrong.
        UsageError: `unknown` or `routes` is.

    """

    def __init__(
        self,
        app: App,
        policy: PolicySource = None,
        *,
        unknown: Unknown = "limit",
        routes: Mapping[str, str] | None = None,
        websockets: bool = False,
        records: RecordSink | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._app = app
        self._websockets = websockets
        self._waiters: Waiters = {}
        self._door = Door(
            read_policy(policy, os.environ),
            unknown=unknown,
            routes=routes,
            records=records,
            metrics=metrics,
            has_place=self._has_place,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """How many requests have a place."""
        return self._door.admission.running

    @property
    def waiting(self) -> int:
        """How many requests wait for a place."""
        return self._door.admission.waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope, as ASGI wants it."""
        kind = scope["type"]
        if kind == "http":
            self._start(scope)
            host = _host(scope)
            call = self._open(scope, host, scope["method"].encode("latin-1"))
            await Exchange(self._door, call, self._waiters, scope, receive, send).run(self._app, host)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            raise CorralError(f"The guard does not know the scope {kind!r}, so it does not let it pass.")

    # the loop

    def _start(self, scope: Scope) -> None:
        """Begin to live on the running loop. A loop that has ended may be followed by another, as in tests."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            if self._door.is_late:
                self._look()
            return
        if self._loop is not None and self._loop.is_running():
            raise CorralError("A corral.Guard serves one event loop: give each loop an application of its own.")
        refuse_unlimited(handlers_of(scope.get("app", self._app)))
        self._door.start(loop)
        self._loop = loop
        self._tick()

    def _tick(self) -> None:
        self._look()
        assert self._loop is not None
        self._timer = self._loop.call_later(TICK, self._tick)

    def _look(self) -> None:
        for call in self._door.tick():
            turn_away(self._waiters, call, self._door.admission.expected_wait())

    def _has_place(self, call: Call) -> None:
        waiter = self._waiters.get(call)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start before the application does, and end after it."""
        try:
            self._start(scope)
        except CorralError as error:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return

        async def passing(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown"):
                await self._stop()
            await send(message)

        await self._app(scope, receive, passing)

    async def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop = None
        await self._door.close()

    # requests

    def _open(self, scope: Scope, host: str, method: bytes) -> Call:
        return self._door.open(
            method,
            _path(scope),
            scope.get("query_string", b""),
            scope["headers"],
            host,
            http10=scope.get("http_version") == "1.0",
        )

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge a handshake. One that is refused is closed before it is accepted: the server answers 403."""
        self._start(scope)
        refused: Message = {"type": "websocket.close", "code": _POLICY_VIOLATION}
        if not self._websockets:
            await receive()
            await send({**refused, "reason": "websockets are not served"})
            return
        host = _host(scope)
        call = self._open(scope, host, b"GET")
        if self._door.open_to_all and _is_another_sites(call.incoming.head):
            # Where no key is asked for, nothing else tells a page of another site: browsers let it shake hands.
            await receive()
            await send({**refused, "reason": "the page is another site's"})
            return
        verdict = self._door.enter(call, host)
        if isinstance(verdict, Refusal):
            self._door.render(call, verdict)
            await receive()
            await send({**refused, "reason": verdict.kind})
            return
        token = CURRENT.set(call)
        try:
            call.status = 101
            await self._app(scope, receive, send)
        except LimitExceeded:
            await send({**refused, "reason": "quota_exceeded"})
        finally:
            CURRENT.reset(token)
            self._door.finish(call, "answered")


def _is_another_sites(head: Mapping[bytes, bytes]) -> bool:
    """Tell whether a handshake comes from a web page of another host than the one it is addressed to."""
    origin = head.get(b"origin")
    return origin is not None and origin.partition(b"://")[2].lower() != head.get(b"host", b"").lower()


def _host(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _path(scope: Scope) -> str:
    """Read the path as routers do: decoded, and without the application's own root."""
    path, root = scope["path"], scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return str(path[len(root) :])
    return str(path)
