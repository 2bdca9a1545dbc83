"""Penalties that grow: who does not stop is refused for longer each time, and who does is forgotten."""

from collections import OrderedDict
from collections.abc import Hashable


class Penalties:
    """Who is under a penalty, in bounded memory.

    The first one lasts `first` seconds. Each further one is twice as long as the one before, `most` seconds at most,
    unless the one before has been over for as long as it lasted: then nothing is held against anybody. Of more than
    `capacity` at once, the oldest are let off.
    """

    def __init__(self, *, first: float = 60.0, most: float = 900.0, capacity: int = 10_000) -> None:
        self._first = first
        self._most = most
        self._capacity = capacity
        self._given: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        """Of each the end of its latest penalty, and how long that was."""

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._given)

    def remaining(self, who: Hashable, now: float) -> float:
        """Say for how long `who` is still under a penalty, in seconds; 0 if it is under none."""
        given = self._given.get(who)
        return max(0.0, given[0] - now) if given is not None else 0.0

    def give(self, who: Hashable, now: float) -> float:
        """Give `who` a penalty, from now on. Returns how long it is, in seconds."""
        given = self._given.pop(who, None)
        length = self._first
        if given is not None and now < given[0] + given[1]:
            length = min(self._most, 2 * given[1])
        self._given[who] = (now + length, length)
        if len(self._given) > self._capacity:
            self._given.popitem(last=False)
        return length
