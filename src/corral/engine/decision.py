"""What the engine answers: admit or deny, and how each limit stands."""

from typing import NamedTuple

PartitionKey = tuple[str | int | bytes, ...] | str
"""Whom a limit counts: a plain value, or a tuple of them; never a joined string."""


class Standing(NamedTuple):
    """How one limit stands for one client.

    `name` is the limit's; `quota` units in `window` seconds; `remaining` ≥ 0 units may be taken at once now; `reset`
    seconds until the whole quota is there again (after a denial: until this request would be admitted). A `window` of 0
    is none: what is counted are those that run at once, and `reset` says nothing.
    """

    name: str
    quota: int
    window: float
    remaining: int
    reset: float


class Charge(NamedTuple):
    """What one limit was charged: its index in the store, whom it counted, and the state that the charge left.

    `returned` is what had been given back out of order until then (see `Clients.returned`).
    """

    limit: int
    key: PartitionKey
    state: int
    returned: int


class Reservation(NamedTuple):
    """What a request took. It is kept (the request was served) or given back (`Store.give_back`), once."""

    charges: tuple[Charge, ...]
    cost: int


class Admit(NamedTuple):
    """Every limit in force agreed, and was charged. `tightest` of them has the smallest share of its quota left.

    `shadowed` are the limits in shadow that would have refused; they were not charged, as if they had.
    """

    reservation: Reservation
    tightest: Standing | None
    shadowed: tuple[Standing, ...] = ()


class Deny(NamedTuple):
    """At least one limit in force refused, and none was charged.

    `retry_after` > 0 seconds until all in force would agree.
    """

    violated: tuple[Standing, ...]
    retry_after: float


Decision = Admit | Deny


class Part(NamedTuple):
    """What is held of one limit: its index in the store, whom it counts, where that is held, and how many units."""

    limit: int
    key: PartitionKey
    owner: PartitionKey
    cost: int


class Hold:
    """The tokens that a running request holds. It is ended by `Store.settle`, once: a second time changes nothing.

    `tightest` is the limit on tokens with the smallest share of its quota left, if any applies; `other` that among the
    limits that do not count tokens, those without a window only where there is no other. Neither is in shadow;
    `shadowed` are those in shadow that would have refused, of which nothing is held.
    """

    __slots__ = ("open", "other", "parts", "shadowed", "tightest")

    def __init__(
        self,
        parts: tuple[Part, ...],
        tightest: Standing | None,
        other: Standing | None = None,
        shadowed: tuple[Standing, ...] = (),
    ) -> None:
        self.parts = parts
        self.tightest = tightest
        self.other = other
        self.shadowed = shadowed
        self.open = True


NOTHING = Reservation((), 0)
"""What a request took that no limit counts."""
