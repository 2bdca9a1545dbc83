"""What a limit knows of its clients, in bounded memory, whatever clients are invented."""

# ruff: noqa: SLF001  # who takes over reads what its predecessor, of the same class, keeps

from corral.engine.algorithm import Algorithm
from corral.engine.decision import PartitionKey

OVERFLOW_CELLS = 1024
"""How many counts strangers share once a table is full."""


class Clients:
    """A table from client to state, of at most `capacity` own entries and `OVERFLOW_CELLS` shared ones.

    Entries live in two generations. A change moves an entry to the young one; after each horizon the old one is
    dropped whole, and the young one becomes old. What is dropped was left alone for a horizon at least, so it equals
    no entry (`Algorithm.horizon`), and nothing is ever swept.

    Admission stays exact when the table is full. A client without an entry then shares a cell with all strangers of
    the same hash, which Python keys anew in each process. The cell admits no more than one client's quota, so nobody in
    it gets more than its own. A client keeps to its cell as long as the cell is live, even once there is room again: it
    cannot spend there and then start afresh in an entry of its own. Clients that have an entry keep it, so a flood of
    inventions harms strangers only.

    `young` and `rotate_at` are read by the store itself, which saves a call for each limit (0.2 µs) where a client is
    already in the young generation.
    """

    __slots__ = ("_algorithm", "_capacity", "_cells", "_old", "_returned", "_returned_most", "_returned_old", "_seed",
                 "overflowed", "rotate_at", "young")  # fmt: skip

    def __init__(self, algorithm: Algorithm, capacity: int, seed: bytes) -> None:
        self._algorithm = algorithm
        self._capacity = capacity
        self._seed = seed
        self.young: dict[PartitionKey, int] = {}
        self._old: dict[PartitionKey, int] = {}
        self._cells: dict[PartitionKey, int] = {}
        self._returned: dict[PartitionKey, int] = {}
        self._returned_old: dict[PartitionKey, int] = {}
        self._returned_most = 0
        self.rotate_at = 0
        self.overflowed = 0

    def __len__(self) -> int:
        return len(self.young) + len(self._old) + len(self._cells)

    def keys(self) -> list[PartitionKey]:
        """List the clients that have an entry of their own; those that share one are not told apart."""
        return [*self.young, *(key for key in self._old if key not in self.young)]

    def find(self, key: PartitionKey, now: int) -> tuple[PartitionKey, int | None]:
        """Find whom to count for `key` (itself, or the cell it shares) and its state, None where there is none."""
        if now >= self.rotate_at:
            self._rotate(now)
        state = self.young.get(key)
        if state is None:
            state = self._old.get(key)
            if state is None and (self._cells or len(self.young) + len(self._old) >= self._capacity):
                return self._stranger(key, now)
        return key, state

    def put(self, key: PartitionKey, state: int | None) -> None:
        """Keep `state` for a key that `find` returned; None forgets it."""
        if type(key) is tuple and key[0] is _CELL:
            table = self._cells
        else:
            table = self.young
            if self._old:
                self._old.pop(key, None)
        if state is None:
            table.pop(key, None)
        else:
            table[key] = state

    def returned(self, key: PartitionKey) -> int:
        """Say what was given back to a client while later charges stood, in the units of its state, ever growing.

        That moves the end of every later charge forward, which those charges cannot know: what has grown since one was
        made is taken off what it may give back. Too much may be taken off (a charge is not told from a later one, nor
        those that were forgotten from one another), never too little.
        """
        if not self._returned and not self._returned_old:
            return self._returned_most
        return self._returned.get(key) or self._returned_old.get(key, self._returned_most)

    def add_returned(self, key: PartitionKey, amount: int) -> None:
        """Note that `amount` was given back to a client while later charges stood."""
        self._returned[key] = self.returned(key) + amount

    def take_over(self, before: "Clients", now: int) -> int:
        """Go on with the entries of `before`, which counted by the same kind of algorithm; nobody uses it any more.

        What was used stays used, but for what nobody could have used here: it is forgotten, as if it had come back by
        itself. Returns what is to be added to a state of `before` that is kept elsewhere. Takes 0.1 µs for each entry
        where the amount or the burst has changed, and no time where nothing has.
        """
        algorithm, old = self._algorithm, before._algorithm
        self._returned, self._returned_old = before._returned, before._returned_old
        self._returned_most = before._returned_most
        self.overflowed = before.overflowed
        shift = algorithm.moved(old.amount, now)
        deepest = algorithm.deepest(now)
        if not shift and algorithm.horizon == old.horizon and deepest == old.deepest(now):
            self.young, self._old, self._cells = before.young, before._old, before._cells
            self.rotate_at = before.rotate_at
            return 0
        self.rotate_at = now + algorithm.horizon
        for source, target in ((before._old, self.young), (before.young, self.young), (before._cells, self._cells)):
            for key, state in source.items():
                if not old.is_live(state, now):
                    continue
                after = state + shift
                if after > deepest:
                    self.add_returned(key, after - deepest)
                    after = deepest
                target[key] = after
        return shift

    def current(self, key: PartitionKey) -> int | None:
        """Return the state of a key that `find` returned before, without looking for a cell."""
        for table in (self.young, self._old, self._cells):
            state = table.get(key)
            if state is not None:
                return state
        return None

    def _stranger(self, key: PartitionKey, now: int) -> tuple[PartitionKey, int | None]:
        cell = (_CELL, hash((self._seed, key)) % OVERFLOW_CELLS)
        state = self._cells.get(cell)
        if state is not None and not self._algorithm.is_live(state, now):
            del self._cells[cell]
            state = None
        if state is None and len(self.young) + len(self._old) < self._capacity:
            return key, None
        self.overflowed += 1
        return cell, state

    def _rotate(self, now: int) -> None:
        horizon = self._algorithm.horizon
        fresh = now - self.rotate_at < horizon
        self._old = self.young if fresh else {}
        self.young = {}
        self.rotate_at = now + horizon
        is_live = self._algorithm.is_live
        for gone in (self._returned_old, {} if fresh else self._returned):
            self._returned_most = max(self._returned_most, *gone.values(), 0)
        self._returned_old = self._returned if fresh else {}
        self._returned = {}
        self._cells = {cell: state for cell, state in self._cells.items() if is_live(state, now)}


_CELL = "\0overflow"


def is_own(key: PartitionKey) -> bool:
    """Tell whether a key names a client, and no cell that strangers share."""
    return type(key) is not tuple or key[0] != _CELL
