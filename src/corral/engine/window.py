"""A window that begins with a client's first request: so many in it, and then all come back at once.

What "thirty a minute" says plainly: the thirty-first request of a minute is refused, at whatever pace the thirty came.
A client's state packs the window's end and the units used into one integer.
"""

from corral.engine.algorithm import SECOND, Verdict, Weighed

_BITS = 48
_USED = (1 << _BITS) - 1


class Window:
    """At most `amount` in the `window` seconds that follow a client's first request."""

    __slots__ = ("_length", "amount", "begins", "horizon", "keeps", "window")

    def __init__(self, amount: int, window: float) -> None:
        self.amount = amount
        self.window = window
        self.keeps = False
        self.begins = True
        self._length = round(window * SECOND)
        self.horizon = self._length

    def ask(self, state: int | None, now: int, cost: int) -> Verdict:
        """Judge a request; see `Algorithm.ask`."""
        if state is None or state >> _BITS <= now:
            end, used = now + self._length, cost
        else:
            end, used = state >> _BITS, (state & _USED) + cost
        if used > self.amount:
            return None, 0, end - now
        return end << _BITS | used, self.amount - used, end - now

    def give_back(self, state: int, charged: int, now: int, cost: int) -> int | None:
        """Undo a charge, if its window still runs; see `Algorithm.give_back`."""
        end = state >> _BITS
        if end <= now or end != charged >> _BITS:
            return state
        used = max(0, (state & _USED) - cost)
        return end << _BITS | used if used else None

    def weigh(self, state: int | None, now: int, held: int, cost: int) -> Weighed:
        """Judge whether units can be held; see `Algorithm.weigh`."""
        if state is None or state >> _BITS <= now:
            end, used = now + self._length, held
        else:
            end, used = state >> _BITS, (state & _USED) + held
        if used + cost > self.amount:
            return False, max(0, self.amount - used), end - now
        return True, self.amount - used - cost, end - now

    def charge(self, state: int | None, now: int, cost: int) -> int | None:
        """Charge what was used, to the window that runs; where none does, one begins. See `Algorithm.charge`."""
        if state is None or state >> _BITS <= now:
            end, used = now + self._length, cost
        else:
            end, used = state >> _BITS, (state & _USED) + cost
        return end << _BITS | min(used, _USED)

    def is_live(self, state: int, now: int) -> bool:
        """Tell whether the window still runs."""
        return state >> _BITS > now

    def moved(self, amount: int, now: int) -> int:  # noqa: ARG002  # the protocol's
        """Say what to add to a state: nothing, since it names the units used; see `Algorithm.moved`."""
        return 0

    def deepest(self, now: int) -> int:
        """Say the state of a window that began just now, with all the units it can name."""
        return (now + self._length) << _BITS | _USED
