"""What one decision costs in process: `python -m benchmarks.decision`.

Corral's memory store beside the library that slowapi decides with. Times are passed in where the store takes them, so
that no clock is measured where none is part of the work.
"""

import itertools
from collections.abc import Iterator

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from benchmarks.stopwatch import Timing, print_table, timed
from corral.engine.decision import Admit, Deny
from corral.engine.limit import limits_from
from corral.policy.model import Algorithm, LimitRule, Quota
from corral.stores.memory import MemoryStore

_STEP = 1e-5
"""Seconds from one request to the next: a flood of 100,000 a second."""


def _store(*quotas: Quota, algorithm: Algorithm = "gcra") -> MemoryStore:
    return MemoryStore(limits_from(LimitRule(name=f"limit-{number}", quota=quota, algorithm=algorithm)
                                   for number, quota in enumerate(quotas)))  # fmt: skip


def _corral(name: str, store: MemoryStore, limits: int, expected: type[Admit] | type[Deny]) -> Timing:
    client = store.bind([("address", "192.0.2.7")] * limits)
    clock = itertools.count(1_000_000)
    store.take(client, next(clock) * _STEP)
    if type(store.take(client, next(clock) * _STEP)) is not expected:
        raise AssertionError(f"{name}: the store does not do what is to be measured")
    return timed(name, lambda: store.take(client, next(clock) * _STEP))


def _new_clients(name: str) -> Timing:
    store = _store(Quota(30, 60.0))
    clock = itertools.count(1_000_000)

    def one() -> object:
        at = next(clock)
        return store.take(store.bind([("address", str(at))]), at * _STEP)

    return timed(name, one)


def _many_clients(name: str) -> Timing:
    store = _store(Quota(1_000_000, 1.0))
    clients = [store.bind([("address", f"198.51.100.{number}")]) for number in range(100_000)]
    turns, clock = itertools.cycle(clients), itertools.count(1_000_000)
    return timed(name, lambda: store.take(next(turns), next(clock) * _STEP))


def _timings() -> Iterator[Timing]:
    plenty, spent = Quota(1_000_000, 1.0), Quota(1, 86_400.0)
    yield _corral("corral: one limit, admitted", _store(plenty), 1, Admit)
    yield _corral("corral: one limit, refused", _store(spent), 1, Deny)
    yield _corral("corral: one limit, admitted, window", _store(plenty, algorithm="window"), 1, Admit)
    yield _corral("corral: two limits, admitted", _store(plenty, plenty), 2, Admit)
    yield _corral("corral: two limits, refused by one", _store(plenty, spent), 2, Deny)
    yield _many_clients("corral: one limit, 100,000 clients in turn")
    yield _new_clients("corral: one limit, a new client each time")
    item = RateLimitItemPerSecond(1_000_000)
    fixed, moving = FixedWindowRateLimiter(MemoryStorage()), MovingWindowRateLimiter(MemoryStorage())
    yield timed("limits: fixed window, admitted", lambda: fixed.hit(item, "192.0.2.7"))
    few = RateLimitItemPerSecond(100)
    yield timed("limits: moving window of 100, mostly refused", lambda: moving.hit(few, "192.0.2.7"))


if __name__ == "__main__":
    print_table("One decision, in process", _timings())
