"""What a limit algorithm is: arithmetic on one integer of state."""

from typing import Protocol

SECOND = 1_000_000_000
"""Nanoseconds in a second: the engine counts in whole nanoseconds, so that nothing is rounded in a client's favour."""


Verdict = tuple[int | None, int, int]
"""What an algorithm says to one request: (state, remaining, wait).

`state` is the state to keep if the request is admitted, None if it is refused; `remaining` units may be taken at once
afterwards; `wait` nanoseconds until the quota is whole again or, after a refusal, until the request would be admitted.
A plain tuple: a named one took 0.3 µs more for each limit of each request.
"""


Weighed = tuple[bool, int, int]
"""What an algorithm says to a request that would hold units: (fits, remaining, wait).

`remaining` units may be held at once, after this request if it `fits`, else beside those held already. `wait`
nanoseconds until the quota is whole again or, if it does not fit, until it does, should what is held be used up.
"""


class Algorithm(Protocol):
    """How units are given back. Stateless: what is known of a client is one integer, and absence is its zero.

    `horizon` is the longest time in nanoseconds that a state can matter after it was last changed: a state left alone
    that long equals no state.
    """

    amount: int
    window: float
    horizon: int
    begins: bool
    """Whether a client's first request begins something, though it is charged nothing yet."""
    keeps: bool
    """Whether what was used is to be kept where a restart does not forgive it."""

    def ask(self, state: int | None, now: int, cost: int) -> Verdict:
        """Judge a request of `cost` ≥ 1 units at `now` nanoseconds. A cost above the whole quota is never admitted."""
        ...

    def give_back(self, state: int, charged: int, now: int, cost: int) -> int | None:
        """Undo a charge of `cost` that had left the state `charged`; `state` is today's. None means no state.

        Never gives back more than the charge still takes away: what time has returned already is not returned twice.
        """
        ...

    def weigh(self, state: int | None, now: int, held: int, cost: int) -> Weighed:
        """Judge whether `cost` ≥ 0 units fit beside `held` ≥ 0 that running requests hold. Charges nothing."""
        ...

    def charge(self, state: int | None, now: int, cost: int) -> int | None:
        """Charge `cost` ≥ 0 units that were used, whether they fit or not; returns the state. None means no state."""
        ...

    def is_live(self, state: int, now: int) -> bool:
        """Tell whether `state` still differs from no state."""
        ...

    def moved(self, amount: int, now: int) -> int:
        """Say what to add to a state, so that the units used stay, where the quota had been `amount` until `now`."""
        ...

    def deepest(self, now: int) -> int:
        """Say the state of a client that has used all it can at `now`: no state is above it."""
        ...
