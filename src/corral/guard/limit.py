"""Limits that an application sets on single handlers of its own, beside its guard's policy."""

import inspect
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

from corral.dialects.model import ErrorStyle
from corral.engine import limits_from
from corral.engine.decision import Deny, PartitionKey, Reservation
from corral.errors import CorralError, PolicyError, UsageError
from corral.guard.call import CURRENT, Call
from corral.guard.refusal import Refusal
from corral.guard.shadow import by_limits
from corral.policy.model import Algorithm, LimitRule, Partition, Policy
from corral.policy.notation import parse_quota
from corral.policy.rules import check
from corral.stores.memory import MemoryStore

P = ParamSpec("P")
R = TypeVar("R")

_NO_GUARD = (
    "A corral limit counts the requests that a guard has seen, and none is installed: "
    "add app.add_middleware(corral.Guard) or app.wsgi_app = corral.wsgi.Guard(app.wsgi_app)."
)


class LimitExceeded(CorralError):
    """A limit of the application's own is used up; the guard answers 429, whatever becomes of this exception.

    Raised by `Limit`, before its handler runs. `retry_after` says in how many seconds to come back.
    """

    status_code = 429

    def __init__(self, name: str, retry_after: float) -> None:
        super().__init__(f'The limit "{name}" is used up; come back in {math.ceil(retry_after)} seconds.')
        self.detail = str(self)
        self.retry_after = retry_after


class Limit:
    """A limit on whatever asks it: `Depends(corral.Limit("30/minute"))`, or `check()` anywhere in a handler.

    It counts exactly, in any thread, apart from all other limits: share one instance to count handlers together. `per`
    says who is counted: client (the key, or the address where there is no key), address, key, or everyone. With
    `algorithm="window"` all units come back together; otherwise evenly, and at most `burst` may be taken at once. In
    `shadow` it counts, and tells what it would have refused, and refuses nothing.

    Raises:
        PolicyError: the quota, the name or the burst is wrong.

    """

    def __init__(
        self,
        quota: str,
        *,
        per: Partition = "client",
        name: str | None = None,
        burst: int | None = None,
        algorithm: Algorithm = "gcra",
        max_clients: int = 100_000,
        shadow: bool = False,
    ) -> None:
        if per not in ("client", "address", "key", "everyone"):
            raise PolicyError(f'per={per!r} is not known: write "client", "address", "key" or "everyone".')
        self.rule = LimitRule(
            name=name or _name_of(quota), quota=parse_quota(quota), per=per, burst=burst, algorithm=algorithm,
            shadow=shadow,
        )  # fmt: skip
        if self.rule.quota.unit != "requests":
            raise PolicyError(
                f'"{quota}": {self.rule.quota.unit} cannot be counted by a handler, which does not know them. Write '
                "such a limit into the policy's [[limits]]."
            )
        for path, message in check(Policy(limits=(self.rule,))):
            raise PolicyError(f"{path[-1]}: {message}")
        self._store = MemoryStore(limits_from([self.rule]), capacity=max_clients)
        self._lock = threading.Lock()

    def check(self) -> None:
        """Count the request that is being served.

        Raises:
            LimitExceeded: there have been too many; the guard answers 429 with all headers.
            CorralError: no guard has seen the request, or nobody was asked for the key that is to be counted.

        """
        call = CURRENT.get()
        if call is None:
            raise CorralError(_NO_GUARD)
        key = self._partition(call)
        now = time.monotonic()
        with self._lock:
            decision = self._store.take(self._store.bind((key,)), now)
        if isinstance(decision, Deny):
            visit = call.visit
            call.standings.append((self.rule, None))
            call.over = Refusal(
                "quota_exceeded",
                "",
                ErrorStyle.OPENAI if visit is None else visit.route.errors,
                "app" if visit is None else visit.route.name,
                None,
                decision.retry_after,
                decision.violated[0],
                call.plan,
            )
            for undo in call.undo:
                undo()
            call.undo.clear()
            raise LimitExceeded(self.rule.name, decision.retry_after)
        call.shadow += by_limits(decision.shadowed, {self.rule.name: self.rule})
        reservation = decision.reservation
        call.undo.append(lambda: self._give_back(reservation))
        call.standings.append((self.rule, decision.tightest))

    async def __call__(self) -> None:
        """Do as `check` does: what `Depends` awaits."""
        self.check()

    def _give_back(self, reservation: Reservation) -> None:
        with self._lock:
            self._store.give_back(reservation, time.monotonic())

    def _partition(self, call: Call) -> PartitionKey:
        per = self.rule.per
        if per == "everyone":
            return "everyone"
        if per != "address" and call.key is not None:
            return ("key", call.key.name)
        if per == "key":
            raise CorralError('A limit per="key" counts keys, and nobody was asked for one here: write per="client".')
        return ("address", call.address)


def limit(
    quota: str,
    *,
    per: Partition = "client",
    name: str | None = None,
    burst: int | None = None,
    algorithm: Algorithm = "gcra",
    shadow: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Limit a handler, `async` or not: `@corral.limit("30/minute")`, below the decorator that registers it.

    The handler needs no `request` parameter. See `Limit` for what the arguments mean. A limit stands for itself: two
    handlers have two counts. That it stands below the registering decorator is checked when the guard starts.

    Raises:
        PolicyError: the quota, the name or the burst is wrong.
        UsageError: what is decorated cannot be limited.

    """

    def decorate(handler: Callable[P, R]) -> Callable[P, R]:
        if inspect.isclass(handler) or not callable(handler):
            raise UsageError("@corral.limit goes on a function: put it on the methods of a class.")
        if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
            raise UsageError(
                "@corral.limit cannot go on a generator, which begins to run when its answer has begun: "
                f'add dependencies=[Depends(corral.Limit("{quota}"))] to its route.'
            )
        called = getattr(handler, "__name__", type(handler).__name__)
        guarded = Limit(quota, per=per, name=name or _name_of(f"{called}-{quota}"), burst=burst, algorithm=algorithm,
                        shadow=shadow)  # fmt: skip
        limited = _async(handler, guarded) if _is_async(handler) else _sync(handler, guarded)
        _UNLIMITED.add(handler)
        return limited

    return decorate


def _sync(handler: Callable[P, R], guarded: Limit) -> Callable[P, R]:
    @wraps(handler)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        guarded.check()
        return handler(*args, **kwargs)

    return limited


def _async(handler: Callable[P, Any], guarded: Limit) -> Callable[P, Any]:
    @wraps(handler)
    async def limited(*args: P.args, **kwargs: P.kwargs) -> Any:
        guarded.check()
        return await handler(*args, **kwargs)

    return limited


def _is_async(handler: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004  # what it is, not whether


def _name_of(text: str) -> str:
    """Make a limit's name from what it is called: letters, digits, "-" and "_", 64 at most."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[-64:] or "limit"


_UNLIMITED: "WeakSet[Callable[..., Any]]" = WeakSet()
"""What was decorated, as it was before: nothing of this may be what an application has registered."""


def refuse_unlimited(handlers: Iterable[object]) -> None:
    """Make sure that no handler is registered without the limit that is written above it.

    Raises:
        UsageError: one is.

    """
    for handler in handlers:
        try:
            missed = handler in _UNLIMITED
        except TypeError:  # it cannot be referred to weakly, so it is none of them
            continue
        if missed:
            raise UsageError(
                f"The handler {getattr(handler, '__qualname__', handler)} was registered before it was limited, so its "
                "limit is never asked: put @corral.limit below the decorator that registers it, next to the function."
            )


def handlers_of(app: object) -> Iterator[object]:
    """List the handlers that a Starlette, FastAPI or Flask application has registered."""
    views = getattr(app, "view_functions", None)
    if isinstance(views, dict):
        yield from views.values()
    for route in getattr(app, "routes", None) or ():
        endpoint = getattr(route, "endpoint", None)
        if endpoint is not None:
            yield endpoint
        yield from handlers_of(route)
