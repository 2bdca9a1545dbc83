"""Headroom: places kept free for clients that ask for little, while others ask for more than there is.

A fair queue alone gives every free place to whoever waits. Behind a flood a client then finds all places taken, and
waits until a service ends. Only a place that was left free spares it that.

Of each client the *load* is known: how many requests it had inside (waiting or running) in the mean, lately. By
Little's law that is what it asks for, in places. The *share* is what max-min fairness gives, by weight, to who asks for
more than it: who asks for less gets that, and what it leaves is for the others. Nobody is above the share while there
is enough for all.

- Who asks for more than the share, and for more than the mean client, is *heavy*; the others are *light*. (The share
  alone would not do: in bursts, and while they wait, honest clients ask for more than that too.)
- Who asks for no more than the share, or for little beside the mean client, has places *kept* for it, in which heavy
  clients do not run. Kept are as many as such clients will want at once: their load, within their shares, and `SAFETY`
  times its square root (square-root staffing: how many want a place at a time is nearly Poisson's, whose variance is
  its mean).
- Never all places are kept, and none once such clients have been away for a while: who is alone has every place.
"""

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

MEMORY = 20.0
"""Over how many seconds a load is averaged, exponentially."""

_YOUNG = 5.0
"""Over how many seconds at least; in between, over as long as the client is known: floods are known soon."""

LITTLE = 0.25
"""How much of the mean client's load is little, beside it."""

SAFETY = 3.0
"""How many standard deviations of what is wanted are kept besides its mean: real arrivals come in bursts."""

_MOST = 2.0
"""How many times all places a load may be: a long queue is not held against a client for long."""

INTERVAL = 0.25
"""Seconds between two divisions of the places."""

FORGOTTEN = 0.001
"""The load, in places, that equals none: half a second's request is forgotten after a minute."""

REMEMBERED = 1024
"""How many clients are remembered that have nothing inside."""

_NOTHING = 1e-9


class _Demand:
    """What one client asks for. It is known since `first`; its `load` was true at `since`."""

    __slots__ = ("client", "first", "heavy", "inside", "load", "running", "since", "weight")

    def __init__(self, client: Hashable, now: float) -> None:
        self.client = client
        self.weight = 1.0
        self.inside = 0
        self.running = 0
        self.load = 0.0
        self.first = now
        self.since = now
        self.heavy = False


class Headroom(Generic[T]):
    """Who is heavy, and whether a heavy client may start. A ticket is any hashable, and in here once.

    Counting takes O(1); dividing O(n log n) in the clients known, `INTERVAL` seconds apart. Known are those that have
    something inside, and `REMEMBERED` more.
    """

    def __init__(self, places: int) -> None:
        self._places = max(1, places)
        self._tickets: dict[T, _Demand] = {}
        self._running: set[T] = set()
        self._present: dict[Hashable, _Demand] = {}
        self._gone: OrderedDict[Hashable, _Demand] = OrderedDict()
        self._next = -math.inf
        self.heavy_running = 0
        """In how many places heavy clients run."""
        self.kept = 0
        """How many places they leave to others; less than there are."""

    def resize(self, places: int) -> None:
        """Have more places, or fewer (≥ 0); what is kept of them is found out at the next division."""
        self._places = max(1, places)
        self.kept = min(self.kept, self._places - 1)
        self._next = -math.inf

    @property
    def known(self) -> int:
        """How many clients are known."""
        return len(self._present) + len(self._gone)

    @property
    def heavy_may_start(self) -> bool:
        """Whether heavy clients run in fewer places than they may."""
        return self.heavy_running < self._places - self.kept

    def heavy(self, client: Hashable) -> bool:
        """Tell whether a client was heavy when the places were last divided."""
        demand = self._present.get(client) or self._gone.get(client)
        return demand is not None and demand.heavy

    def enter(self, ticket: T, client: Hashable, weight: float, now: float) -> None:
        """Count a ticket that is new, of a client whose share is by `weight` (> 0)."""
        demand = self._present.get(client)
        if demand is None:
            demand = self._gone.pop(client, None) or _Demand(client, now)
            self._present[client] = demand
        self._age(demand, now)
        demand.weight = weight
        demand.inside += 1
        self._tickets[ticket] = demand

    def start(self, ticket: T) -> None:
        """Count a ticket that entered as running."""
        demand = self._tickets[ticket]
        self._running.add(ticket)
        demand.running += 1
        if demand.heavy:
            self.heavy_running += 1

    def leave(self, ticket: T, now: float) -> None:
        """Count a ticket no more; one that is not counted is passed over."""
        demand = self._tickets.pop(ticket, None)
        if demand is None:
            return
        self._age(demand, now)
        demand.inside -= 1
        if ticket in self._running:
            self._running.remove(ticket)
            demand.running -= 1
            if demand.heavy:
                self.heavy_running -= 1
        if not demand.inside:
            del self._present[demand.client]
            self._gone[demand.client] = demand
            if len(self._gone) > REMEMBERED:
                self._gone.popitem(last=False)

    def divide(self, now: float) -> list[Hashable]:
        """Divide the places anew, unless that was just done. Returns who is inside and heavy now, or no longer."""
        if now < self._next:
            return []
        self._next = now + INTERVAL
        demands = [*self._present.values(), *self._gone.values()]
        loads = weights = 0.0
        for demand in demands:
            self._age(demand, now)
            loads += demand.load
            weights += demand.weight
        share, mean = self._share(demands, weights), loads / max(weights, _NOTHING)
        much, little = max(share, mean), max(share, LITTLE * mean)
        wanted, anybody = 0.0, False
        changed: list[Hashable] = []
        for demand in demands:
            heavy = demand.load > much * demand.weight
            anybody = anybody or heavy
            if demand.load <= little * demand.weight:
                wanted += min(demand.load, share * demand.weight)
            if demand.heavy != heavy:
                demand.heavy = heavy
                self.heavy_running += demand.running if heavy else -demand.running
                if demand.inside:
                    changed.append(demand.client)
            if not demand.inside and demand.load < FORGOTTEN:
                del self._gone[demand.client]
        self.kept = min(self._places - 1, math.ceil(wanted + SAFETY * math.sqrt(wanted))) if anybody else 0
        return changed

    def _share(self, demands: list[_Demand], weights: float) -> float:
        """Find how many places one of weight 1 gets that asks for more; infinite where there are enough for all."""
        demands.sort(key=_by_load)
        places = float(self._places)
        for demand in demands:
            if demand.load * weights > places * demand.weight:
                return places / weights
            places -= demand.load
            weights -= demand.weight
        return math.inf

    def _age(self, demand: _Demand, now: float) -> None:
        elapsed = now - demand.since
        if elapsed > 0.0:
            demand.since = now
            over = min(MEMORY, max(_YOUNG, now - demand.first))
            load = demand.load + (demand.inside - demand.load) * -math.expm1(-elapsed / over)
            demand.load = min(load, _MOST * self._places)


def _by_load(demand: _Demand) -> float:
    return demand.load / demand.weight
