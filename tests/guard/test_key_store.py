"""Keys in a real SQLite file."""

import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from corral.guard.key_store import VERSION, KeyStore, StoredKey, StoreError, default_path

DIGEST = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys.db"


def add(store: KeyStore, name: str = "alice", digest: bytes = DIGEST, **more) -> StoredKey:
    given = {"created": 1.0, "plan": None, "admin": False, "expires": None, **more}
    return store.add(name, f"crl_{name}", digest, **given)


def test_what_is_kept_is_found_again_by_another(path):
    with KeyStore.create(path) as store:
        key = add(store, plan="pro", admin=True, expires=9.5)
    assert key == StoredKey(1, "alice", "crl_alice", DIGEST, "pro", True, 1.0, 9.5, None)
    with KeyStore.open(path) as again:
        assert again.all() == again.named("alice") == again.starting("crl_al") == [key]
        assert again.with_digest(DIGEST) == key
        assert (again.named("bob"), again.starting("rl_"), again.with_digest(bytes(32))) == ([], [], None)


def test_only_its_owner_may_read_it_while_it_is_open_too(path):
    with KeyStore.create(path) as store:
        add(store)
        files = sorted(path.parent.iterdir())
        assert [file.name for file in files] == ["keys.db", "keys.db-shm", "keys.db-wal"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_no_key_is_in_the_file(path):
    with KeyStore.create(path) as store:
        columns = {row[1] for row in store._connection.execute("PRAGMA table_info(keys)")}
    assert columns == {"id", "name", "prefix", "sha256", "plan", "admin", "created", "expires", "revoked"}


def test_a_key_is_valid_until_it_ends(path):
    with KeyStore.create(path) as store:
        key = add(store, expires=10.0)
        assert (key.is_valid(9.9), key.is_valid(10.0)) == (True, False)
        store.expire(key, 20.0)
        assert store.all()[0].expires == 10.0
        store.expire(key, 5.0)
        assert store.all()[0].expires == 5.0
        store.revoke(key, 3.0)
        store.revoke(key, 4.0)
        assert store.all()[0].revoked == 3.0
        assert not store.all()[0].is_valid(0.0)


def test_a_change_is_whole_or_none(path):
    with KeyStore.create(path) as store:
        with pytest.raises(ZeroDivisionError), store.changing():
            assert add(store).id / 0
        assert store.all() == []
        with store.changing():
            add(store)
        assert len(store.all()) == 1
        with pytest.raises(StoreError, match="UNIQUE"):
            add(store, "bob")


def test_another_process_changes_the_version_and_reading_does_not(path):
    with KeyStore.create(path) as writer, KeyStore.open(path) as reader:
        before = reader.version()
        assert reader.version() == before
        add(writer)
        after = reader.version()
        assert after != before
        reader.all()
        assert reader.version() == after


def test_many_writers_at_once_lose_nothing(path):
    KeyStore.create(path).close()

    def write(number: int) -> None:
        with KeyStore.open(path) as store, store.changing():
            add(store, f"n{number}", bytes([number]) * 32)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with KeyStore.open(path) as store:
        assert len(store.all()) == 8


def test_a_store_that_is_not_there_is_not_made_by_looking(path):
    with pytest.raises(StoreError, match="corral keys create"):
        KeyStore.open(path)
    assert not path.exists()


def test_a_store_that_others_may_write_is_refused(path):
    KeyStore.create(path).close()
    path.chmod(0o660)
    for opening in (KeyStore.open, KeyStore.create):
        with pytest.raises(StoreError, match="chmod 600"):
            opening(path)


def test_what_is_no_store_is_refused_and_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("dear diary " * 100)
    text.chmod(0o600)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE keys (x)")
    connection.close()
    foreign.chmod(0o600)
    for opening in (KeyStore.open, KeyStore.create):
        with pytest.raises(StoreError, match="not a database"):
            opening(text)
        with pytest.raises(StoreError, match="no key store of Corral"):
            opening(foreign)
    assert text.read_text() == "dear diary " * 100


def test_a_store_of_a_newer_corral_is_refused(path):
    KeyStore.create(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(StoreError, match=f"version {VERSION + 1}"):
        KeyStore.open(path)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        KeyStore.create(tmp_path / "file" / "keys.db")


def test_the_default_is_in_the_state_directory(tmp_path):
    assert default_path({"XDG_STATE_HOME": "/s", "HOME": "/h"}) == Path("/s/corral/keys.db")
    for environ in ({"HOME": "/h"}, {"HOME": "/h", "XDG_STATE_HOME": "relative"}):
        assert default_path(environ) == Path("/h/.local/state/corral/keys.db")
    assert default_path({}) == Path("/var/lib/corral/keys.db")
