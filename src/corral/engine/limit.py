"""A limit: a name that clients are told, and the algorithm that counts for it."""

from collections.abc import Iterable
from dataclasses import dataclass

from corral.engine.algorithm import Algorithm
from corral.engine.gcra import Gcra
from corral.engine.window import Window
from corral.policy.model import LimitRule


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a store."""

    name: str
    algorithm: Algorithm


def limits_from(rules: Iterable[LimitRule]) -> tuple[Limit, ...]:
    """Build the limits that the policy's rules ask for, in their order."""
    return tuple(Limit(rule.name, _algorithm(rule)) for rule in rules)


def _algorithm(rule: LimitRule) -> Algorithm:
    quota = rule.quota
    if rule.algorithm == "window":
        return Window(quota.amount, quota.window)
    return Gcra(quota.amount, quota.window, rule.burst)
