"""What the admin API shows of a guard that runs: the sums, the servers, and the clients. Values that JSON can say."""

import asyncio
import heapq
import time
from collections.abc import Callable, Iterator
from typing import Any

from corral import __version__
from corral.engine.decision import PartitionKey, Standing
from corral.guard.credentials import KeyLabel
from corral.guard.metrics import Metrics
from corral.guard.service import Guard
from corral.policy.model import LimitRule, Quota
from corral.policy.plans import all_limits
from corral.policy.shadow import with_shadow

_SLICE = 250
"""Clients that are looked at before other work gets its turn: a millisecond."""

_PARTS_OF = {"gpu-seconds": 1000, "cost": 1_000_000}
"""How many of what a store counts are one of a quota's units: milliseconds, millionths of a currency."""

_Label = Callable[[str], KeyLabel | None]
"""Says what people know a key by, given its id."""

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
    requests: half a second or so for a hundred thousand. Amounts are in the unit that is told beside them.
    """
    store, label = guard.store, guard.authenticator.label
    rules = {rule.name: rule for rule in all_limits(with_shadow(guard.policy))}
    best: list[tuple[float, str, str, PartitionKey, Standing]] = []
    counted = 0
    for name, keys in store.counted().items():
        rule = rules.get(name)
        if rule is None or (limit is not None and name != limit):
            continue
        for begin in range(0, len(keys), _SLICE):
            found = []
            for key in keys[begin : begin + _SLICE]:
                if named is not None and named not in partition(rule, key, label).values():
                    continue
                standing = store.standing(name, key, now)
                found.append((1.0 - standing.remaining / standing.quota, name, repr(key), key, standing))
            counted += len(found)
            best = heapq.nlargest(most, [*best, *found], key=_used)
            await asyncio.sleep(0)
    return {"counted": counted, "clients": [_listed(rules[name], key, found, label) for _, name, _, key, found in best]}


def _listed(rule: LimitRule, key: PartitionKey, standing: Standing, label: _Label) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "partition": partition(rule, key, label),
        "limit": rule.name,
        "shadow": rule.shadow,
        "unit": rule.quota.currency or rule.quota.unit,
        "quota": _in_its_unit(standing.quota, rule.quota),
        "window": standing.window,
        "remaining": _in_its_unit(standing.remaining, rule.quota),
        "reset": _rounded(standing.reset),
    }
    known = _key_of(rule, key, label)
    if known is not None and known.prefix:
        entry["key_prefix"] = known.prefix
    return entry


def _in_its_unit(amount: int, quota: Quota) -> int | float:
    parts = _PARTS_OF.get(quota.unit, 1)
    return amount / parts if amount % parts else amount // parts


def partition(rule: LimitRule, key: PartitionKey, label: _Label) -> dict[str, str]:
    """Say whom a partition key counts: {"key": "alice"}, {"prefix": "10.0.0.0/8", "model": "tiny"}.

    A key is named as people know it; one that is not there any more by its id.
    """
    found = dict(_parts(rule, key))
    identifier = found.pop("credential", None)
    if identifier is None:
        return found
    known = label(identifier)
    return {"key": identifier if known is None else known.name, **found}


def _key_of(rule: LimitRule, key: PartitionKey, label: _Label) -> KeyLabel | None:
    identifier = dict(_parts(rule, key)).get("credential")
    return None if identifier is None else label(identifier)


def _parts(rule: LimitRule, key: PartitionKey) -> Iterator[tuple[str, str]]:
    if isinstance(key, str):
        part = rule.partitions[0]
        # Who has a key is told by a pair, unless it is the key alone that counts.
        yield "credential" if part == "key" else "address" if part in ("client", "user") else part, key
        return
    parts = tuple(map(str, key))
    for kind, value in zip(parts[::2], parts[1::2], strict=False):
        yield kind, value or _NAMELESS.get(kind, value)


def _used(found: tuple[float, str, str, PartitionKey, Standing]) -> tuple[float, str, str]:
    return found[:3]


def _rounded(seconds: float) -> float:
    return round(seconds, 3)
