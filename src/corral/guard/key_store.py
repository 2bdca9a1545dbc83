"""API keys that come and go while the guard runs: kept in one SQLite file, each only as its SHA-256.

The file is in WAL mode, so a guard reads while a command writes; only its owner may read it (mode 0600).
`PRAGMA user_version` is the version of its schema, `application_id` says whose it is.
"""

import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from corral.errors import UsageError

VERSION = 1
"""The version of the schema that this Corral writes."""

_APPLICATION = 0x43524C31  # "CRL1"
_PATIENCE = 5.0  # seconds that a command waits for another one to finish writing

_SCHEMA = """
CREATE TABLE keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    sha256 BLOB NOT NULL UNIQUE CHECK (length(sha256) = 32),
    plan TEXT,
    admin INTEGER NOT NULL DEFAULT 0 CHECK (admin IN (0, 1)),
    created REAL NOT NULL,
    expires REAL,
    revoked REAL
);
CREATE INDEX keys_by_name ON keys (name);
"""

_COLUMNS = "id, name, prefix, sha256, plan, admin, created, expires, revoked"


class StoreError(UsageError):
    """The store cannot be used: it is not there, not readable, not ours, of another version, or others may write it."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key. Times are seconds since the epoch; `prefix` is how the key begins, enough for people to know it by.

    `expires` None is never; `revoked` None is not.
    """

    id: int
    name: str
    prefix: str
    sha256: bytes
    plan: str | None
    admin: bool
    created: float
    expires: float | None
    revoked: float | None

    def is_valid(self, now: float) -> bool:
        """Tell whether it lets its holder in at `now`."""
        return self.revoked is None and (self.expires is None or now < self.expires)


def default_path(environ: Mapping[str, str]) -> Path:
    """Name the store that is used where none is configured: `corral/keys.db` in the XDG state directory.

    For a service without a home it is /var/lib/corral/keys.db. The XDG specification wants relative paths ignored.
    """
    state, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    if state.startswith("/"):
        return Path(state, "corral", "keys.db")
    if home.startswith("/"):
        return Path(home, ".local", "state", "corral", "keys.db")
    return Path("/var/lib/corral/keys.db")


class KeyStore:
    """The repository: every statement that is ever sent to the file stands in this class.

    Use it on the thread that opened it; close it, or use it as a context manager.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path

    @classmethod
    def open(cls, path: Path, *, patience: float = _PATIENCE) -> Self:
        """Open a store that is there; `patience` in seconds is how long to wait for a writer.

        Raises:
            StoreError: it is not there, or cannot be used.

        """
        if not path.is_file():
            raise StoreError(f"There is no key store {path}. `corral keys create --name NAME` makes one.")
        _refuse_what_others_may_write(path)
        with _explained(path):
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=patience,
                                         isolation_level=None)  # fmt: skip
            try:
                _check_schema(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(connection, path)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Open a store, and make it first if it is not there: mode 0600, in a directory of mode 0700.

        Raises:
            StoreError: it cannot be made or used.

        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite gives its -wal and -shm files the mode that it finds here.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreError(f"The key store {path} cannot be made: {error.strerror}.") from None
        _refuse_what_others_may_write(path)
        with _explained(path):
            connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
            try:
                _make_schema(connection)
                _check_schema(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(connection, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def version(self) -> int:
        """Give a number that changes whenever another process has changed the store; costs some microseconds."""
        with _explained(self.path):
            number: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return number

    def all(self) -> list[StoredKey]:
        """List every key, the revoked and expired too, by name and then by age."""
        return self._select("ORDER BY name, created, id")

    def named(self, name: str) -> list[StoredKey]:
        """List the keys called `name`, oldest first."""
        return self._select("WHERE name = ? ORDER BY created, id", name)

    def starting(self, prefix: str) -> list[StoredKey]:
        """List the keys whose kept beginning starts with `prefix`."""
        return self._select("WHERE substr(prefix, 1, length(?1)) = ?1 ORDER BY created, id", prefix)

    def with_digest(self, digest: bytes) -> StoredKey | None:
        """Find the key whose SHA-256 is `digest`."""
        return next(iter(self._select("WHERE sha256 = ?", digest)), None)

    def add(
        self, name: str, prefix: str, digest: bytes, *, created: float, plan: str | None, admin: bool,
        expires: float | None,
    ) -> StoredKey:  # fmt: skip
        """Keep a key by its SHA-256."""
        with _explained(self.path):
            self._connection.execute(
                "INSERT INTO keys (name, prefix, sha256, plan, admin, created, expires) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (name, prefix, digest, plan, int(admin), created, expires),
            )
        added = self.with_digest(digest)
        assert added is not None
        return added

    def revoke(self, key: StoredKey, at: float) -> None:
        """Let nobody in with `key` any more; a key that was revoked stays revoked since then."""
        self._update("UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", at, key.id)

    def expire(self, key: StoredKey, at: float) -> None:
        """End `key` at `at`, unless it ends before."""
        self._update("UPDATE keys SET expires = min(coalesce(expires, ?1), ?1) WHERE id = ?2", at, key.id)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Make what is read and written inside one change: all of it, or none; other writers wait."""
        with _explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        with _explained(self.path):
            self._connection.execute("COMMIT")

    def _select(self, rest: str, *values: str | bytes) -> list[StoredKey]:
        with _explained(self.path):
            rows = self._connection.execute(f"SELECT {_COLUMNS} FROM keys {rest}", values).fetchall()  # noqa: S608  # our own words
        return [
            StoredKey(number, name, prefix, digest, plan, bool(admin), created, expires, revoked)
            for number, name, prefix, digest, plan, admin, created, expires, revoked in rows
        ]

    def _update(self, statement: str, *values: float) -> None:
        with _explained(self.path):
            self._connection.execute(statement, values)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"The key store {path} cannot be used: {error}.") from error


def _refuse_what_others_may_write(path: Path) -> None:
    """Refuse a store that not only its owner may write: whoever can, can let themselves in."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise StoreError(f"The key store {path} cannot be read: {error.strerror}.") from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StoreError(
            f"Others may write the key store {path}, and so let themselves in; take that from them: chmod 600 {path}"
        )


def _make_schema(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != _APPLICATION:
        raise StoreError(f"{path} is a database, but no key store of Corral's: name another file.")
    if version != VERSION:
        raise StoreError(
            f"The key store {path} has version {version}; this Corral knows version {VERSION}. Use the newer Corral."
        )
