"""A budget by the calendar: so much in each day or month in UTC, and all of it anew when the next one begins.

The engine's clock says nothing of the calendar. `offset` is what has to be added to it to get the time since 1970 in
UTC, in nanoseconds: the limit's owner sets it, and may set it anew whenever the wall clock is put right. A client's
state packs a period's number and what was used in it into one integer. A state of the period to come counts, too: the
clock was put back over the end of a period, and that forgives nothing.
"""

from datetime import date

from corral.engine.algorithm import SECOND, Verdict, Weighed

_BITS = 48
_USED = (1 << _BITS) - 1
_DAY = 86_400 * SECOND
_EPOCH = date(1970, 1, 1).toordinal()

HORIZONS = {"day": 2 * _DAY, "month": 32 * _DAY}


class Calendar:
    """At most `amount` in each `period`: "day" or "month". `window` is the longest that one can be, in seconds."""

    __slots__ = ("_begin", "_end", "_number", "amount", "begins", "horizon", "keeps", "offset", "period", "window")

    def __init__(self, amount: int, period: str) -> None:
        self.amount = amount
        self.period = period
        self.window = 86_400.0 if period == "day" else 31 * 86_400.0
        self.horizon = HORIZONS[period]
        self.begins = False
        self.keeps = True
        self.offset = 0
        self._begin = 0
        self._end = 0
        self._number = 0

    def number(self, now: int) -> int:
        """Number the period of `now`: days, or months, since the epoch."""
        wall = now + self.offset
        if not self._begin <= wall < self._end:
            self._turn(wall // _DAY)
        return self._number

    def _turn(self, day: int) -> None:
        """Find the period of a day since the epoch."""
        if self.period == "day":
            self._number, self._begin, self._end = day, day * _DAY, (day + 1) * _DAY
            return
        first = date.fromordinal(_EPOCH + day).replace(day=1)
        months = (first.year - 1970) * 12 + first.month
        following = date(1970 + months // 12, months % 12 + 1, 1)
        self._number = months - 1
        self._begin = (first.toordinal() - _EPOCH) * _DAY
        self._end = (following.toordinal() - _EPOCH) * _DAY

    def used(self, state: int | None, now: int) -> int:
        """Say how much of this period's budget is used."""
        number = self.number(now)
        return state & _USED if state is not None and number <= state >> _BITS <= number + 1 else 0

    def ask(self, state: int | None, now: int, cost: int) -> Verdict:
        """Judge a request; see `Algorithm.ask`."""
        used = self.used(state, now) + cost
        wait = self._end - now - self.offset
        if used > self.amount:
            return None, 0, wait
        return self._number << _BITS | used, self.amount - used, wait

    def give_back(self, state: int, charged: int, now: int, cost: int) -> int | None:
        """Undo a charge, if its period still runs; see `Algorithm.give_back`."""
        used = self.used(state, now)
        if not used or state >> _BITS != charged >> _BITS:
            return state
        left = max(0, used - cost)
        return state >> _BITS << _BITS | left if left else None

    def weigh(self, state: int | None, now: int, held: int, cost: int) -> Weighed:
        """Judge whether units can be held; see `Algorithm.weigh`."""
        left = self.amount - self.used(state, now) - held
        wait = self._end - now - self.offset
        return (True, left - cost, wait) if cost <= left else (False, max(0, left), wait)

    def charge(self, state: int | None, now: int, cost: int) -> int | None:
        """Charge what was used to the period that runs; see `Algorithm.charge`."""
        used = min(self.used(state, now) + cost, _USED)
        return self._number << _BITS | used if used else None

    def is_live(self, state: int, now: int) -> bool:
        """Tell whether the state is of the period that runs."""
        return self.used(state, now) > 0

    def pack(self, number: int, used: int) -> int:
        """Build the state of who has used so much in the period of that number."""
        return number << _BITS | min(used, _USED)

    def moved(self, amount: int, now: int) -> int:  # noqa: ARG002  # whatever the amount was
        """Say what to add to a state where the budget had been `amount`: nothing, since it names what was used."""
        return 0

    def deepest(self, now: int) -> int:  # noqa: ARG002  # it must not depend on an offset that is yet to be set
        """Say a state that no state is above."""
        return 1 << 2 * _BITS
