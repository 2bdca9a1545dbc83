"""A guard's view of a key store: followed while it changes, appears, is replaced, or goes."""

import contextlib
import logging
import os
from pathlib import Path

from corral.guard.credentials import KeyRing
from corral.guard.key_store import KeyStore, StoreError

_log = logging.getLogger("corral.guard")

_PATIENCE = 0.05
"""Seconds that a look may wait for a writer: the guard's loop stands still meanwhile."""

_Identity = tuple[int, int]


class KeyWatch:
    """Keeps a ring's stored keys as the file at `path` has them. One thread may call its methods.

    A file that is not there has no keys, as after a restart. A file that is there and cannot be read leaves the keys
    as they were, and is logged: locking everybody out would be worse than a change that comes late.
    """

    def __init__(self, path: Path, ring: KeyRing) -> None:
        self._path = path
        self._ring = ring
        self._store: KeyStore | None = None
        self._identity: _Identity | None = None
        self._version = -1
        self._loaded = False
        self._trouble = ""
        self._said = ""

    def start(self) -> None:
        """Read the store for the first time.

        Raises:
            StoreError: it is there, but cannot be used.

        """
        self._look()

    def poll(self) -> None:
        """Follow what has changed: 10 µs where nothing has. Never raises; trouble that lasts is logged once."""
        try:
            self._look()
        except (StoreError, OSError) as error:
            # Whoever is just making or moving the file causes trouble that is over at the next look.
            trouble = str(error)
            if trouble == self._trouble != self._said:
                _log.error("The keys stay as they were last read. %s", trouble)
                self._said = trouble
            self._trouble = trouble
            self.close()
        else:
            if self._said:
                _log.warning("The key store %s can be read again.", self._path)
            self._trouble = self._said = ""

    def close(self) -> None:
        """Let go of the file; the next look opens it anew."""
        store, self._store = self._store, None
        self._identity = None
        if store is not None:
            with contextlib.suppress(StoreError):
                store.close()

    def _look(self) -> None:
        identity = _identify(self._path)
        if identity is None:
            if self._store is not None or self._loaded:
                self.close()
                self._version = -1
                self._loaded = False
                self._ring.replace_stored(())
            return
        store = self._store
        if store is None or identity != self._identity:
            self.close()
            store = self._store = KeyStore.open(self._path, patience=_PATIENCE)
            self._identity = identity
            self._version = -1
        version = store.version()
        if version != self._version:
            # What is written after this look changes the version again: nothing is missed.
            self._ring.replace_stored(store.all())
            self._version = version
            self._loaded = True


def _identify(path: Path) -> _Identity | None:
    """Tell one file from another at the same path; None where there is none, or one that nothing was written to."""
    try:
        status = os.stat(path)  # noqa: PTH116  # Path.stat takes twice as long
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (status.st_dev, status.st_ino) if status.st_size else None
