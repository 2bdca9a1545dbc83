"""What the engine answers: admit or deny, and how each limit stands."""

from typing import NamedTuple

PartitionKey = tuple[str | int | bytes, ...] | str | int | bytes
"""Whom a limit counts: a plain value, or a tuple of them; never a joined string."""


class Standing(NamedTuple):
    """How one limit stands for one client.

    `name` is the limit's; `quota` units in `window` seconds; `remaining` ≥ 0 units may be taken at once now; `reset`
    seconds until the whole quota is there again (after a denial: until this request would be admitted).
    """

    name: str
    quota: int
    window: float
    remaining: int
    reset: float


class Reservation(NamedTuple):
    """What a request took. Ended exactly once: kept (the request was served) or given back (`Store.give_back`)."""

    keys: tuple[PartitionKey | None, ...]
    cost: int


class Admit(NamedTuple):
    """Every limit agreed, and each was charged. `tightest` is the limit with the smallest share left, if there is one."""

    reservation: Reservation
    tightest: Standing | None


class Deny(NamedTuple):
    """At least one limit refused, and none was charged. `retry_after` seconds until all of them would agree."""

    violated: tuple[Standing, ...]
    retry_after: float


Decision = Admit | Deny
