"""What would have been refused and was not, because what refuses it is in shadow: noted, and told."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from corral.engine.decision import Standing
from corral.policy.model import LimitRule

CLAMPED = "clamped"
"""The reason of what would not have been refused, but served with fewer tokens."""

_KINDS = {
    "requests": "quota_exceeded", "concurrent requests": "too_many_at_once", "cost": "budget_spent",
    "gpu-seconds": "compute_exceeded",
}  # fmt: skip


class Shadowed(NamedTuple):
    """One refusal that did not happen.

    `reason` is the refusal's kind; `limit` the limit or the setting that it goes by, "" where it goes by none;
    `retry_after` in seconds, 0 where no time would have been told.
    """

    reason: str
    limit: str = ""
    retry_after: float = 0.0


def by_limits(standings: Iterable[Standing], rules: Mapping[str, LimitRule]) -> tuple[Shadowed, ...]:
    """Note the limits in shadow that would have refused; `rules` by their names."""
    return tuple(
        Shadowed(_KINDS.get(rules[standing.name].quota.unit, "tokens_exceeded"), standing.name, standing.reset)
        for standing in standings
    )


def told(noted: Iterable[Shadowed]) -> bytes:
    """Write what a client is told, a list as RFC 9651 has them: `quota_exceeded;limit="client";retry-after=12`."""
    return ", ".join(map(_item, noted)).encode()


def _item(noted: Shadowed) -> str:
    limit = f';limit="{noted.limit}"' if noted.limit else ""
    retry = f";retry-after={max(1, math.ceil(noted.retry_after))}" if noted.retry_after else ""
    return f"{noted.reason}{limit}{retry}"


def logged(noted: Iterable[Shadowed]) -> str:
    """Write what the log says: `quota_exceeded:client,overloaded`."""
    return ",".join(f"{one.reason}:{one.limit}" if one.limit else one.reason for one in noted)


def refusals(field: str) -> list[tuple[str, str]]:
    """Read what `logged` wrote: the reason and the limit of each refusal that did not happen."""
    pairs = (part.partition(":") for part in field.split(","))
    return [(reason, limit) for reason, _, limit in pairs if reason != CLAMPED]
