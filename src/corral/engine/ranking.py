"""Who comes first, among members whose values change."""

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SLACK = 64
"""How many outdated entries may lie in the heap besides as many as there are members."""


class Ranking(Generic[K]):
    """Members in the order of their values, smallest first; of equal values, the one that was put first.

    A heap with outdated entries, which are passed over where they come up, and swept out once they are the greater
    part: `put` costs O(log n) and `drop` O(1), on average; the memory is bounded by twice the members.
    """

    __slots__ = ("_entries", "_heap", "_puts")

    def __init__(self) -> None:
        self._entries: dict[K, tuple[float, int, K]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._puts = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, member: K, value: float) -> None:
        """Add a member, or change its value. It comes after those already there that have the same value."""
        self._puts += 1
        entry = (value, self._puts, member)
        self._entries[member] = entry
        if len(self._heap) > 2 * len(self._entries) + _SLACK:
            self._heap = list(self._entries.values())
            heapify(self._heap)
        else:
            heappush(self._heap, entry)

    def drop(self, member: K) -> None:
        """Take a member out; one that is not there is passed over."""
        self._entries.pop(member, None)

    def first(self) -> K:
        """Name the member with the smallest value. Raises IndexError where there is none."""
        heap, entries = self._heap, self._entries
        while entries.get(heap[0][2]) is not heap[0]:
            heappop(heap)
        return heap[0][2]
