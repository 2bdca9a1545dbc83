"""What was spent of the calendar's budgets, in one SQLite file that one guard uses at a time.

The file is in WAL mode and locked as long as it is open; only its owner may read it (mode 0600). A row is one client's
use of one limit: there are never more of them than clients that a limit counts apart, since what is of an earlier
period, or nothing, is removed.
"""

import json
import os
import sqlite3
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from corral.engine.decision import PartitionKey
from corral.guard.key_store import StoreError
from corral.stores import Spent

_APPLICATION = 0x43524C32  # "CRL2"
_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spent (
    name TEXT NOT NULL,
    who TEXT NOT NULL,
    span TEXT NOT NULL,
    number INTEGER NOT NULL,
    used INTEGER NOT NULL CHECK (used > 0),
    PRIMARY KEY (name, who)
) WITHOUT ROWID
"""


class BudgetFile:
    """The repository: every statement that is ever sent to the file stands in this class."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file, or make it: mode 0600, in a directory of mode 0700.

        Raises:
            StoreError: it cannot be made or used, or another guard uses it.

        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            mode = path.stat().st_mode
        except OSError as error:
            raise StoreError(
                f"The file of spent budgets {path} cannot be made: {error.strerror}. Name another: budgets.store."
            ) from None
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StoreError(
                f"Others may write {path}, and so forgive what was spent; take that from them: chmod 600 {path}"
            )
        try:
            connection = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False)
            try:
                _take(connection, path)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise StoreError(
                    f"Another guard keeps its budgets in {path}. Give this one a file of its own: budgets.store."
                ) from None
            raise StoreError(f"{path} cannot be used as the file of spent budgets: {error}.") from None
        return cls(connection, path)

    def read(self) -> list[Spent]:
        """Read everything. Raises sqlite3.Error."""
        rows = self._connection.execute("SELECT name, who, span, number, used FROM spent")
        return [Spent(name, _key(json.loads(who)), span, number, used) for name, who, span, number, used in rows]

    def write(self, spent: Iterable[Spent]) -> None:
        """Write what has changed: all of it, or nothing. Raises sqlite3.Error."""
        used = [(s.limit, json.dumps(s.key), s.span, s.number, s.used) for s in spent]
        with self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO spent VALUES (?, ?, ?, ?, ?)", [row for row in used if row[-1] > 0]
            )
            self._connection.executemany(
                "DELETE FROM spent WHERE name = ? AND who = ?", [row[:2] for row in used if row[-1] <= 0]
            )

    def forget(self, span: str, number: int) -> None:
        """Remove what was spent before the period of that number. Raises sqlite3.Error."""
        self._connection.execute("DELETE FROM spent WHERE span = ? AND number < ?", (span, number))

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _transaction(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN")
        return self._connection


def _take(connection: sqlite3.Connection, path: Path) -> None:
    """Lock the file for this process, and make sure that it is ours."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN EXCLUSIVE")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and (application != _APPLICATION or version > _VERSION):
        raise StoreError(f"{path} is no file of spent budgets, or of a newer Corral. Name another: budgets.store.")
    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute(_SCHEMA)
    connection.execute("COMMIT")


def _key(value: Any) -> PartitionKey:
    return tuple(value) if isinstance(value, list) else str(value)
