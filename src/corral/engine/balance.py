"""Which of several servers a request goes to: the one with the least to do, of those that may have more.

Pure bookkeeping: who is given a place takes it from a server, and gives it back there.
"""

from collections.abc import Sequence


class Load:
    """What one server has to do.

    `slots` is how many requests it works on at once, `running` how many it has, `outstanding` the tokens that they may
    use at most (prompts and answers), and `usable` whether more may be sent to it.
    """

    __slots__ = ("outstanding", "running", "slots", "usable")

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.running = 0
        self.outstanding = 0.0
        self.usable = True


class Balance:
    """Chooses among servers, by the place in `loads` that each has.

    `max_running` bounds what runs on all of them together; None is no bound.
    """

    def __init__(self, loads: Sequence[Load], max_running: int | None = None) -> None:
        self._loads = tuple(loads)
        self._only = loads[0] if len(loads) == 1 else None
        self._max_running = max_running

    def bound(self, max_running: int | None) -> None:
        """Let another number run on all servers together."""
        self._max_running = max_running

    @property
    def places(self) -> int:
        """How many may run in all.

        Those that run on a server that may have no more, or has fewer slots than before, keep their places there until
        they end; so a free place is always one on a server that can be used.
        """
        places = 0
        for load in self._loads:
            slots = load.slots if load.usable else 0
            places += max(slots, load.running)
        most = self._max_running
        return places if most is None or places < most else most

    @property
    def usable(self) -> bool:
        """Whether there is any server that can be used."""
        return any(load.usable for load in self._loads)

    def choose(self) -> int:
        """Choose a server with a free slot, the one with the fewest outstanding tokens; -1 where there is none."""
        only = self._only
        if only is not None:
            return 0 if only.usable and only.running < only.slots else -1
        chosen, least = -1, 0.0
        for place, load in enumerate(self._loads):
            if load.usable and load.running < load.slots:
                outstanding = load.outstanding
                if chosen < 0 or outstanding < least:
                    chosen, least = place, outstanding
        return chosen

    def least(self) -> int:
        """Choose a usable server for what needs no slot; -1 where there is none."""
        chosen, least = -1, 0.0
        for place, load in enumerate(self._loads):
            if load.usable and (chosen < 0 or load.outstanding < least):
                chosen, least = place, load.outstanding
        return chosen

    def take(self, place: int, tokens: float) -> None:
        """Count a request of so many tokens (≥ 0) on a server that `choose` found."""
        load = self._loads[place]
        load.running += 1
        load.outstanding += tokens

    def give_back(self, place: int, tokens: float) -> bool:
        """Forget a request that was counted; True if there are fewer `places` now."""
        load = self._loads[place]
        fewer = load.running > (load.slots if load.usable else 0)
        load.running -= 1
        load.outstanding = load.outstanding - tokens if load.running else 0.0
        return fewer
