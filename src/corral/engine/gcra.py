"""The generic cell rate algorithm: units come back evenly, and at most a burst may be taken at once.

ITU-T I.371, as a virtual scheduler. A client's state is its theoretical arrival time: the moment at which all that it
took will have come back. Times are integers in units of 1/amount nanoseconds, in which one unit of quota takes
exactly the window to return: nothing is ever rounded.

What is used beyond what fits is owed: it has to come back before anything can be taken again.
"""

from corral.engine.algorithm import SECOND, Verdict, Weighed


class Gcra:
    """At most `burst` at once, and `amount` more in each `window` seconds: in any time t, burst + amount·t/window.

    A client may owe `debt` units beyond the burst at most; what it used beyond that is forgotten.
    """

    __slots__ = ("_deepest", "_interval", "_tolerance", "amount", "begins", "burst", "horizon", "keeps", "window")

    def __init__(self, amount: int, window: float, burst: int | None = None, debt: int = 0) -> None:
        self.amount = amount
        self.window = window
        self.keeps = False
        self.begins = False
        self.burst = amount if burst is None else burst
        self._interval = round(window * SECOND)
        self._tolerance = self.burst * self._interval
        self._deepest = self._tolerance + debt * self._interval
        self.horizon = self._deepest // amount + 1

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

    def weigh(self, state: int | None, now: int, held: int, cost: int) -> Weighed:
        """Judge whether units can be held; see `Algorithm.weigh`."""
        amount = self.amount
        interval = self._interval
        now *= amount
        ahead = (held + cost) * interval
        if state is not None and state > now:
            ahead += state - now
        room = self._tolerance - ahead
        if room < 0:
            left = (room + cost * interval) // interval
            return False, max(0, left), -(room // amount) if cost <= self.burst else self.horizon
        return True, room // interval, ahead // amount

    def charge(self, state: int | None, now: int, cost: int) -> int | None:
        """Charge what was used; see `Algorithm.charge`."""
        now *= self.amount
        if state is None or state < now:
            state = now
        state = min(state + cost * self._interval, max(state, now + self._deepest))
        return state if state > now else None

    def is_live(self, state: int, now: int) -> bool:
        """Tell whether the theoretical arrival time lies ahead."""
        return state > now * self.amount

    def moved(self, amount: int, now: int) -> int:
        """Say what to add to a state; see `Algorithm.moved`.

        What lies ahead is the units used times the window, whatever the amount: the same lies ahead of the new clock.
        """
        return now * (self.amount - amount)

    def deepest(self, now: int) -> int:
        """Say the state of who has used the burst and owes all that can be owed."""
        return now * self.amount + self._deepest
