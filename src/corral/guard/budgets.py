"""Budgets by the day and month that a restart does not forgive: taken up at start, and written a few times a second.

Never on a request's path. What running requests hold is written as spent, so that a guard that is killed forgives
nothing; one that stops in order has settled them before.
"""

import logging
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from corral.engine.calendar import Calendar
from corral.guard.budget_file import BudgetFile
from corral.guard.key_store import StoreError
from corral.policy.model import Policy
from corral.policy.plans import all_limits
from corral.stores.memory import MemoryStore

if TYPE_CHECKING:
    from corral.engine.decision import PartitionKey
    from corral.stores import Spent

_log = logging.getLogger("corral.guard")
_SECOND = 1_000_000_000


class Budgets:
    """Keeps what `store` counts of the calendar's budgets in a file.

    Raises:
        sqlite3.Error, ValueError: the file cannot be read.

    """

    def __init__(self, store: MemoryStore, file: BudgetFile) -> None:
        self._store = store
        self._file = file
        self._waiting: dict[tuple[str, PartitionKey], Spent] = {}
        self._calendars = (Calendar(1, "day"), Calendar(1, "month"))
        self._before = file.read()
        self._forgotten = -1
        self._failed = False

    @staticmethod
    def open(policy: Policy, store: MemoryStore) -> "Budgets | None":
        """Open the file that the policy names; None where it names none, or has no such budget.

        Raises:
            StoreError: the file cannot be used.

        """
        path = policy.budgets.store
        kept = any(rule.quota.period for rule in all_limits(policy))
        if not path or not kept:
            return None
        file = BudgetFile.open(Path(path))
        try:
            return Budgets(store, file)
        except (sqlite3.Error, ValueError) as error:
            file.close()
            raise StoreError(f"The file of spent budgets {path} cannot be read: {error}.") from None

    def tick(self, now: float, wall: float) -> None:
        """Write what has changed; the first time, take up what was spent before. `wall` is UTC. Never raises."""
        if self._before:
            self._store.restore(self._before, now)
            self._before = []
        for spent in self._store.changes(now):
            self._waiting[spent.limit, spent.key] = spent
        try:
            if self._waiting:
                self._file.write(self._waiting.values())
                self._waiting.clear()
            self._forget(wall)
            self._failed = False
        except sqlite3.Error as error:
            if not self._failed:
                _log.error("Spent budgets cannot be written to %s: %s. It is tried again.", self._file.path, error)
            self._failed = True

    def _forget(self, wall: float) -> None:
        """Remove what is of earlier periods, once a day."""
        at = int(wall) * _SECOND
        today = self._calendars[0].number(at)
        if today != self._forgotten:
            for calendar in self._calendars:
                self._file.forget(calendar.period, calendar.number(at))
            self._forgotten = today

    def follow(self, store: MemoryStore) -> None:
        """Keep what `store` counts from now on, which has taken over the counts of the store before.

        To be called after a `tick`, with nothing in between: what the store before had to tell must be told.
        """
        self._store = store

    def close(self, now: float, wall: float) -> None:
        """Write what is left, and let go of the file."""
        self.tick(now, wall)
        self._file.close()
