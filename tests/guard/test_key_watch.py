"""A ring that follows a store, look by look."""

import logging
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.guard.credentials import REVOKED, Credential, KeyRing
from corral.guard.key_desk import KeyDesk
from corral.guard.key_store import KeyStore, StoreError
from corral.guard.key_watch import KeyWatch
from corral.policy.model import Policy

PLAIN = {"plan": None, "admin": False, "lifetime": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.db"


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing(())


@pytest.fixture
def watch(path: Path, ring: KeyRing) -> Iterator[KeyWatch]:
    watching = KeyWatch(path, ring)
    yield watching
    watching.close()


def create(path: Path, name: str) -> bytes:
    with KeyStore.create(path) as store:
        return KeyDesk(store, Policy()).create(name, 0.0, **PLAIN).secret.encode()


def revoke(path: Path, name: str) -> None:
    with KeyStore.open(path) as store:
        KeyDesk(store, Policy()).revoke(name, 1.0)


def test_a_look_sees_what_another_process_did_and_costs_nothing_otherwise(path, ring, watch):
    alice = create(path, "alice")
    watch.start()
    assert type(ring.find(alice, 0.0)) is Credential
    before = ring.generation
    watch.poll()
    assert ring.generation == before
    bob = create(path, "bob")
    assert ring.find(bob, 0.0) is None
    watch.poll()
    assert type(ring.find(bob, 0.0)) is Credential
    revoke(path, "alice")
    watch.poll()
    assert ring.find(alice, 0.0) is REVOKED


def test_a_store_may_come_after_the_guard(path, ring, watch):
    watch.start()
    before = ring.generation
    watch.poll()
    assert ring.generation == before
    path.touch(0o600)
    watch.poll()
    alice = create(path, "alice")
    watch.poll()
    assert type(ring.find(alice, 0.0)) is Credential


def test_a_store_that_goes_takes_its_keys_with_it(path, ring, watch):
    alice = create(path, "alice")
    watch.start()
    for file in path.parent.glob("keys.db*"):
        file.unlink()
    watch.poll()
    assert ring.find(alice, 0.0) is None
    before = ring.generation
    watch.poll()
    assert ring.generation == before


def test_another_file_in_its_place_is_read(path, ring, watch, tmp_path):
    alice = create(path, "alice")
    bob = create(tmp_path / "other.db", "bob")
    watch.start()
    for file in path.parent.glob("keys.db-*"):
        file.unlink()
    shutil.move(tmp_path / "other.db", path)
    watch.poll()
    assert ring.find(alice, 0.0) is None
    assert type(ring.find(bob, 0.0)) is Credential


def test_a_store_that_cannot_be_read_at_the_start_is_an_error(path, watch):
    path.write_text("no database " * 100)
    path.chmod(0o600)
    with pytest.raises(StoreError):
        watch.start()


def test_trouble_leaves_the_keys_and_is_said_once(path, ring, watch, caplog):
    alice = create(path, "alice")
    watch.start()
    path.chmod(0o666)
    moved = path.with_name("moved.db")
    path.rename(moved)
    shutil.copy(moved, path)
    with caplog.at_level(logging.WARNING, "corral.guard"):
        for _ in range(5):
            watch.poll()
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "chmod 600" in caplog.text
        assert type(ring.find(alice, 0.0)) is Credential
        path.chmod(0o600)
        watch.poll()
        watch.poll()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_writer_that_takes_long_does_not_stop_the_guard(path, ring, watch):
    alice = create(path, "alice")
    watch.start()
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE keys SET revoked = 1")
    watch.poll()
    assert type(ring.find(alice, 0.0)) is Credential
    writer.execute("COMMIT")
    writer.close()
    watch.poll()
    assert ring.find(alice, 0.0) is REVOKED
