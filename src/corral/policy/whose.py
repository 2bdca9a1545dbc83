"""Whom a limit counts, in words for people."""

from corral.policy.model import LimitRule, Partition

_THIS: dict[Partition, str] = {
    "client": "this client", "address": "this address", "prefix": "this network", "key": "this key",
    "user": "this user", "plan": "this plan", "model": "this model", "route": "this route", "everyone": "all clients",
}  # fmt: skip

_EACH: dict[Partition, str] = {
    "client": "each client (its key, or its address without one)",
    "address": "each address (IPv6: each /64)",
    "prefix": "each network of addresses",
    "key": "each key",
    "user": "each user (all its keys and tokens together)",
    "plan": "each plan (all who are on it together)",
    "model": "each model",
    "route": "each route",
    "everyone": "all clients together",
}


def this(rule: LimitRule) -> str:
    """Name whom a limit counted, to whom it refuses: "this key and this model"."""
    return " and ".join(_THIS[part] for part in rule.partitions)


def each(rule: LimitRule) -> str:
    """Name whom a limit counts apart: "Each key", "Each key, for each model,"."""
    first, *others = (_EACH[part] for part in rule.partitions)
    text = first[0].upper() + first[1:]
    return f"{text}, for {' and '.join(others)}," if others else text
