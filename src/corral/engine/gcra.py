"""The generic cell rate algorithm: units come back evenly, and at most a burst may be taken at once.

ITU-T I.371, as a virtual scheduler. A client's state is its theoretical arrival time: the moment at which all that it
took will have come back. Times are integers in units of 1/amount nanoseconds, in which one unit of quota takes
exactly the window to return: nothing is ever rounded.
"""

from corral.engine.algorithm import SECOND, Verdict


class Gcra:
    """At most `burst` at once, and `amount` more in each `window` seconds: in any time t, burst + amount·t/window."""

    __slots__ = ("_interval", "_tolerance", "amount", "burst", "horizon", "window")

    def __init__(self, amount: int, window: float, burst: int | None = None) -> None:
        self.amount = amount
        self.window = window
        self.burst = amount if burst is None else burst
        self._interval = round(window * SECOND)
        self._tolerance = self.burst * self._interval
        self.horizon = self._tolerance // amount + 1

    def ask(self, state: int | None, now: int, cost: int) -> Verdict:
        """Judge a request; see `Algorithm.ask`."""
        amount = self.amount
        now *= amount
        interval = self._interval
        if state is None or state < now:
            state = now
        state += interval if cost == 1 else cost * interval
        ahead = state - now
        room = self._tolerance - ahead
        if room < 0:
            return None, 0, -(room // amount) if cost <= self.burst else self.horizon
        return state, room // interval, ahead // amount

    def give_back(self, state: int, charged: int, now: int, cost: int) -> int | None:
        """Undo a charge; see `Algorithm.give_back`.

        A charge drains, in the order of the charges, until the time it left as the state. Only what has not drained is
        returned: the rest came back by itself.
        """
        now *= self.amount
        state -= max(0, min(cost * self._interval, charged - now))
        return state if state > now else None

    def is_live(self, state: int, now: int) -> bool:
        """Tell whether the theoretical arrival time lies ahead."""
        return state > now * self.amount
