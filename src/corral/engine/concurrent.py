"""So many at once, whenever they began: nothing is used up, and what is held comes back when its request ends."""

from corral.engine.algorithm import SECOND, Verdict, Weighed


class Concurrent:
    """At most `amount` held at once. Keeps no state: what is held is known to the store. `window` 0 says so."""

    __slots__ = ("amount", "begins", "horizon", "keeps", "window")

    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.window = 0.0
        self.begins = False
        self.keeps = False
        self.horizon = 3600 * SECOND

    def ask(self, state: int | None, now: int, cost: int) -> Verdict:  # noqa: ARG002  # see `Algorithm.ask`
        """Judge a request that holds nothing: it fits if it could run alone."""
        return (0, self.amount - cost, 0) if cost <= self.amount else (None, 0, 0)

    def give_back(self, state: int, charged: int, now: int, cost: int) -> int | None:  # noqa: ARG002  # as above
        """Keep no state."""
        return None

    def weigh(self, state: int | None, now: int, held: int, cost: int) -> Weighed:  # noqa: ARG002  # as above
        """Judge whether one more may run. When one will end is not known: the wait is 0."""
        left = self.amount - held
        return (True, left - cost, 0) if cost <= left else (False, max(0, left), 0)

    def charge(self, state: int | None, now: int, cost: int) -> int | None:  # noqa: ARG002  # as above
        """Keep no state: who has ended has left nothing behind."""
        return None

    def is_live(self, state: int, now: int) -> bool:  # noqa: ARG002  # as above
        """Keep no state."""
        return False

    def moved(self, amount: int, now: int) -> int:  # noqa: ARG002  # as above
        """Keep no state: there is none to be moved."""
        return 0

    def deepest(self, now: int) -> int:  # noqa: ARG002  # as above
        """Keep no state."""
        return 0
