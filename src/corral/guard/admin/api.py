"""The admin API: which routes it has, and what each of them does.

Nothing of it is done for who has no admin key, and nothing of it takes a body.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable

from corral.guard.admin import traffic, views
from corral.guard.admin.access import AdminAccess
from corral.guard.admin.message import Answer, BadQueryError, Request, answer_json, problem
from corral.guard.admin.policy_view import show_policy
from corral.guard.metrics import Metrics
from corral.guard.reload import Reloader, Say
from corral.guard.service import Guard

MOST = 1000
"""Entries of one answer at most."""

_DEFAULT = 100

_ID = re.compile(r"/requests/[^/]+/cancel")

_Handler = Callable[[Request], Awaitable[Answer]]


class AdminApi:
    """Answers requests about `guard`, and does what they ask. `reloader` and `metrics` are the guard's.

    `say` is told what was done, in sentences.
    """

    def __init__(
        self, guard: Guard, reloader: Reloader, metrics: Metrics, access: AdminAccess, say: Say = lambda _: None
    ) -> None:
        self._say = say
        self._guard = guard
        self._reloader = reloader
        self._metrics = metrics
        self._access = access
        self._started = time.time()
        self._routes: dict[str, tuple[str, _Handler]] = {
            "/status": ("GET", self._status),
            "/clients": ("GET", self._clients),
            "/requests": ("GET", self._requests),
            "/queue": ("GET", self._queue),
            "/upstreams": ("GET", self._upstreams),
            "/policy": ("GET", self._policy),
            "/reload": ("POST", self._reload),
            "/drain": ("POST", self._drain),
            "/undrain": ("POST", self._undrain),
            "/requests/ID/cancel": ("POST", self._cancel),
        }

    async def answer(self, request: Request) -> Answer:
        """Answer one request."""
        guard = self._guard
        now = asyncio.get_running_loop().time()
        refused = self._access.refuse(request, guard.policy, guard.authenticator, now)
        if refused is not None:
            return refused
        path = "/requests/ID/cancel" if _ID.fullmatch(request.path) else request.path
        found = self._routes.get(path)
        if found is None:
            known = ", ".join(("/metrics", "/health", *self._routes))
            return problem(404, f"There is no such route. There are: {known}.")
        method, handler = found
        if request.method != method and not (method == "GET" and request.method == "HEAD"):
            allowed = "GET, HEAD" if method == "GET" else method
            return problem(405, f"Ask this with {method}.", [("Allow", allowed)])
        try:
            return await handler(request)
        except BadQueryError as error:
            return problem(400, str(error))

    async def _status(self, request: Request) -> Answer:
        request.parameters()
        return answer_json(views.status(self._guard, self._metrics, self._started))

    async def _clients(self, request: Request) -> Answer:
        asked = request.parameters("most", "name", "limit")
        now = asyncio.get_running_loop().time()
        found = await views.clients(
            self._guard, now, most=_most(asked), named=asked.get("name"), limit=asked.get("limit")
        )
        return answer_json(found)

    async def _requests(self, request: Request) -> Answer:
        asked = request.parameters("most", "name")
        now = asyncio.get_running_loop().time()
        return answer_json(traffic.requests(self._guard, now, most=_most(asked), named=asked.get("name")))

    async def _queue(self, request: Request) -> Answer:
        asked = request.parameters("most")
        return answer_json(traffic.queue(self._guard, asyncio.get_running_loop().time(), most=_most(asked)))

    async def _upstreams(self, request: Request) -> Answer:
        request.parameters()
        return answer_json(traffic.upstreams(self._guard))

    async def _policy(self, request: Request) -> Answer:
        request.parameters()
        return answer_json(show_policy(self._guard.policy))

    async def _reload(self, request: Request) -> Answer:
        request.parameters()
        outcome = await self._reloader.reload()
        if outcome.error:
            return problem(422, outcome.error)
        return answer_json({"changed": outcome.changed})

    async def _drain(self, request: Request) -> Answer:
        request.parameters()
        if not self._guard.core.drained:
            self._say("Takes no new requests, since the admin API was asked to drain it.")
        return self._set_drained(True)

    async def _undrain(self, request: Request) -> Answer:
        request.parameters()
        if self._guard.core.drained:
            self._say("Takes new requests again.")
        return self._set_drained(False)

    def _set_drained(self, drained: bool) -> Answer:  # noqa: FBT001  # the one thing that it says
        guard = self._guard
        guard.core.drained = drained
        return answer_json({"draining": drained, "running": guard.running, "waiting": guard.waiting})

    async def _cancel(self, request: Request) -> Answer:
        request.parameters()
        wanted = request.path.split("/")[2]
        exchange = traffic.find(self._guard, wanted)
        if exchange is None:
            return problem(404, f"No request with the id {wanted[:64]} runs or waits; it may have ended.")
        waited = exchange.waits
        exchange.cancel()
        self._say(f"Cancelled the request {wanted}, since the admin API was asked to.")
        return answer_json({"cancelled": wanted, "state": "waiting" if waited else "running"})


def _most(asked: dict[str, str]) -> int:
    """Read how many entries are wanted, of `MOST` at most."""
    text = asked.get("most", str(_DEFAULT))
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MOST)) and 1 <= int(text) <= MOST):
        raise BadQueryError(f"`most` says how many are wanted: a whole number from 1 to {MOST}.")
    return int(text)
