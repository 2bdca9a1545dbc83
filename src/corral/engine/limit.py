"""A limit: a name that clients are told, and the algorithm that counts for it."""

from collections.abc import Iterable
from dataclasses import dataclass

from corral.engine.algorithm import Algorithm
from corral.engine.gcra import Gcra
from corral.engine.tokens import MEASURES
from corral.engine.window import Window
from corral.policy.model import LimitRule


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a store. `measure` says which of `tokens.MEASURES` it counts; -1 is requests."""

    name: str
    algorithm: Algorithm
    measure: int = -1


def limits_from(rules: Iterable[LimitRule]) -> tuple[Limit, ...]:
    """Build the limits that the policy's rules ask for, in their order."""
    return tuple(Limit(rule.name, _algorithm(rule), measure_of(rule)) for rule in rules)


def measure_of(rule: LimitRule) -> int:
    """Say which of `tokens.MEASURES` a rule counts; -1 is requests."""
    return MEASURES.index(rule.quota.unit) if rule.quota.counts_tokens else -1


def capacity_of(rule: LimitRule) -> int:
    """Say how many units a rule lets through at once at most."""
    return rule.quota.amount if rule.burst is None or rule.algorithm == "window" else rule.burst


def _algorithm(rule: LimitRule) -> Algorithm:
    quota = rule.quota
    if rule.algorithm == "window":
        return Window(quota.amount, quota.window)
    debt = capacity_of(rule) if quota.counts_tokens else 0
    return Gcra(quota.amount, quota.window, rule.burst, debt)
