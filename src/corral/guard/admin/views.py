"""What the admin API shows of a guard that runs: the sums, the servers, and the clients. Values that JSON can say."""

import asyncio
import heapq
import time
from collections.abc import Iterator
from typing import Any

from corral import __version__
from corral.engine.decision import PartitionKey, Standing
from corral.guard.metrics import Metrics
from corral.guard.service import Guard
from corral.policy.model import LimitRule
from corral.policy.plans import all_limits

_SLICE = 250
"""Clients that are looked at before other work gets its turn: a millisecond."""

_NAMELESS = {"model": "other", "plan": "none"}
"""What is said where a partition key has an empty value: a model that the policy does not name, no plan."""


def status(guard: Guard, metrics: Metrics, started: float) -> dict[str, Any]:
    """Sum up: what runs, what waits, and how much was served and refused since the start (`started`, wall time)."""
    served = refused = failed = prompt = completion = 0
    reasons: dict[str, int] = {}
    for (_, code, ending, reason, _, _), tally in metrics.tallies.items():
        prompt += tally.prompt
        completion += tally.completion
        if reason and ending == "refused":
            refused += tally.requests
            reasons[reason] = reasons.get(reason, 0) + tally.requests
        elif ending == "answered" and code < 500:
            served += tally.requests
        else:
            failed += tally.requests
    concurrency = guard.policy.concurrency
    return {
        "version": __version__,
        "uptime": _rounded(time.time() - started),
        "draining": guard.core.drained,
        "connections": guard.connections,
        "running": guard.running,
        "max_running": guard.core.upstreams.balance.places,
        "waiting": guard.waiting,
        "max_waiting": concurrency.max_waiting,
        "ended": {"answered": served, "failed": failed, "refused": refused, "refused_by_reason": reasons},
        "tokens": {"input": prompt, "output": completion},
    }


async def clients(guard: Guard, now: float, *, most: int, named: str | None, limit: str | None) -> dict[str, Any]:
    """List the `most` clients that have used the largest shares of their quotas; of those `named`, and of one `limit`.

    `counted` is how many there are to choose from. Looks at every client that is counted, a few at a time, between
    requests: half a second or so for a hundred thousand.
    """
    store = guard.store
    rules = {rule.name: rule for rule in all_limits(guard.policy)}
    best: list[tuple[float, str, str, PartitionKey, Standing]] = []
    counted = 0
    for name, keys in store.counted().items():
        rule = rules.get(name)
        if rule is None or (limit is not None and name != limit):
            continue
        for begin in range(0, len(keys), _SLICE):
            found = []
            for key in keys[begin : begin + _SLICE]:
                if named is not None and named not in partition(rule, key).values():
                    continue
                standing = store.standing(name, key, now)
                found.append((1.0 - standing.remaining / standing.quota, name, repr(key), key, standing))
            counted += len(found)
            best = heapq.nlargest(most, [*best, *found], key=_used)
            await asyncio.sleep(0)
    listed = [
        {
            "partition": partition(rules[name], key),
            "limit": name,
            "unit": rules[name].quota.unit,
            "quota": standing.quota,
            "window": standing.window,
            "remaining": standing.remaining,
            "reset": _rounded(standing.reset),
        }
        for _, name, _, key, standing in best
    ]
    return {"counted": counted, "clients": listed}


def partition(rule: LimitRule, key: PartitionKey) -> dict[str, str]:
    """Say whom a partition key counts: {"key": "alice"}, {"prefix": "10.0.0.0/8", "model": "tiny"}."""
    return dict(_parts(rule, key))


def _parts(rule: LimitRule, key: PartitionKey) -> Iterator[tuple[str, str]]:
    if isinstance(key, str):
        part = rule.partitions[0]
        yield "address" if part in ("client", "user") else part, key  # who has a key is told by a pair
        return
    parts = tuple(map(str, key))
    for kind, value in zip(parts[::2], parts[1::2], strict=False):
        yield kind, value or _NAMELESS.get(kind, value)


def _used(found: tuple[float, str, str, PartitionKey, Standing]) -> tuple[float, str, str]:
    return found[:3]


def _rounded(seconds: float) -> float:
    return round(seconds, 3)
