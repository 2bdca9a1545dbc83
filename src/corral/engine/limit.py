"""A limit: a name that clients are told, and the algorithm that counts for it."""

from collections.abc import Iterable
from dataclasses import dataclass

from corral.engine.algorithm import Algorithm
from corral.engine.calendar import Calendar
from corral.engine.concurrent import Concurrent
from corral.engine.gcra import Gcra
from corral.engine.measures import MEASURES, scale_of
from corral.engine.window import Window
from corral.policy.model import LimitRule


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a store. `measure` says which of `measures.MEASURES` it counts; -1 is requests. `per` says whom.

    One in `shadow` counts, and refuses nothing.
    """

    name: str
    algorithm: Algorithm
    measure: int = -1
    per: tuple[str, ...] = ("client",)
    shadow: bool = False

    def goes_on(self, before: "Limit") -> bool:
        """Tell whether this is the limit `before`, at most with another amount or burst: then its counts go on.

        They do where it comes out of the shadow, too: what it would have refused is refused from then on.
        """
        mine, other = self.algorithm, before.algorithm
        same = (self.name, self.per, self.measure) == (before.name, before.per, before.measure)
        return same and type(mine) is type(other) and mine.window == other.window


def limits_from(rules: Iterable[LimitRule]) -> tuple[Limit, ...]:
    """Build the limits that the policy's rules ask for, in their order."""
    return tuple(Limit(rule.name, _algorithm(rule), measure_of(rule), rule.partitions, rule.shadow) for rule in rules)


def measure_of(rule: LimitRule) -> int:
    """Say which of `measures.MEASURES` a rule counts; -1 is requests."""
    return -1 if rule.quota.unit == "requests" else MEASURES.index(rule.quota.unit)


def capacity_of(rule: LimitRule) -> int:
    """Say how many units a rule lets through at once at most."""
    return rule.quota.amount if rule.burst is None or rule.algorithm == "window" else rule.burst


def _algorithm(rule: LimitRule) -> Algorithm:
    quota = rule.quota
    scale = scale_of(quota.unit)
    if quota.unit == "concurrent requests":
        return Concurrent(quota.amount)
    if quota.period:
        return Calendar(quota.amount * scale, quota.period)
    if rule.algorithm == "window":
        return Window(quota.amount * scale, quota.window)
    most = capacity_of(rule) * scale
    return Gcra(quota.amount * scale, quota.window, most, most if quota.unit != "requests" else 0)
