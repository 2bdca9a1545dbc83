"""The rules by which keys are made, replaced and revoked."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.errors import UsageError
from corral.guard.key_desk import SHOWN, KeyDesk
from corral.guard.key_store import KeyStore
from corral.guard.new_key import hash_key, looks_like_key
from corral.policy.model import ApiKey, Plan, Policy

DAY = 86400.0
POLICY = Policy(keys=(ApiKey(name="Root", sha256="ab" * 32),), plan={"pro": Plan()})
PLAIN = {"plan": None, "admin": False, "lifetime": None}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    with KeyStore.create(tmp_path / "keys.db") as opened:
        yield opened


@pytest.fixture
def desk(store: KeyStore) -> KeyDesk:
    return KeyDesk(store, POLICY)


def test_a_key_is_made_and_kept_as_its_hash(desk, store):
    made = desk.create("alice", 100.0, plan="pro", admin=True, lifetime=90 * DAY)
    assert looks_like_key(made.secret)
    assert made.key.sha256.hex() == hash_key(made.secret)
    assert made.key.prefix == made.secret[:SHOWN]
    assert (made.key.plan, made.key.admin, made.key.expires) == ("pro", True, 100.0 + 90 * DAY)
    assert store.all() == [made.key]


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, "crl_x", "jwt:a", "é"])
def test_what_is_no_name_is_refused(desk, name):
    with pytest.raises(UsageError, match="cannot name a key"):
        desk.create(name, 0.0, **PLAIN)


def test_a_name_has_one_valid_key(desk):
    desk.create("alice", 0.0, plan=None, admin=False, lifetime=10.0)
    with pytest.raises(UsageError, match="rotate alice"):
        desk.create("alice", 9.0, **PLAIN)
    desk.create("alice", 10.0, **PLAIN)
    with pytest.raises(UsageError, match=r"\[\[keys\]\]"):
        desk.create("root", 0.0, **PLAIN)


def test_a_plan_must_be_there(desk, store):
    with pytest.raises(UsageError, match=r'no plan "gold"\. Its plans: pro'):
        desk.create("alice", 0.0, plan="gold", admin=False, lifetime=None)
    with pytest.raises(UsageError, match="--policy FILE"):
        KeyDesk(store, Policy()).create("alice", 0.0, plan="pro", admin=False, lifetime=None)
    assert store.all() == []


def test_after_a_rotation_both_keys_are_valid_for_the_time_of_grace(desk, store):
    old = desk.create("alice", 0.0, plan="pro", admin=True, lifetime=90 * DAY)
    rotated = desk.rotate("alice", 10 * DAY, grace=DAY, lifetime=None)
    new = rotated.made.key
    assert (new.name, new.plan, new.admin, new.expires) == ("alice", "pro", True, 100 * DAY)
    assert rotated.made.secret != old.secret
    assert [(key.id, key.expires) for key in rotated.replaced] == [(old.key.id, 11 * DAY)]
    first, second = store.named("alice")
    assert [first.is_valid(10.9 * DAY), second.is_valid(10.9 * DAY)] == [True, True]
    assert [first.is_valid(11 * DAY), second.is_valid(11 * DAY)] == [False, True]


def test_a_rotation_never_lengthens_a_life(desk, store):
    desk.create("alice", 0.0, plan=None, admin=False, lifetime=10.0)
    rotated = desk.rotate("alice", 5.0, grace=DAY, lifetime=7.0)
    assert rotated.replaced[0].expires == 10.0
    assert rotated.made.key.expires == 12.0
    assert desk.rotate("alice", 6.0, grace=0.0, lifetime=None).replaced[1].expires == 6.0
    assert [key.is_valid(6.0) for key in store.named("alice")] == [False, False, True]


def test_who_has_no_valid_key_cannot_rotate(desk, store):
    with pytest.raises(UsageError, match="no valid key to replace"):
        desk.rotate("alice", 0.0, grace=1.0, lifetime=None)
    desk.create("alice", 0.0, plan="pro", admin=False, lifetime=None)
    with pytest.raises(UsageError, match="no plan"):
        KeyDesk(store, Policy()).rotate("alice", 1.0, grace=1.0, lifetime=None)
    assert [key.expires for key in store.all()] == [None]


def test_a_name_revokes_all_its_keys_and_a_beginning_one(desk, store):
    desk.create("alice", 0.0, **PLAIN)
    desk.rotate("alice", 1.0, grace=DAY, lifetime=None)
    bob = desk.create("bob", 0.0, **PLAIN)
    eve = desk.create("eve", 0.0, **PLAIN)
    assert [key.name for key in desk.revoke("alice", 5.0)] == ["alice", "alice"]
    assert [key.revoked for key in desk.revoke(bob.key.prefix, 6.0)] == [6.0]
    assert [key.name for key in desk.revoke(eve.secret, 7.0)] == ["eve"]
    assert not any(key.is_valid(8.0) for key in store.all())


@pytest.mark.parametrize(
    ("which", "said"),
    [("nobody", "corral keys list"), ("crl_", "at least"), ("crl_zzzzz", "corral keys list"), ("crl_same", "2 keys")],
)
def test_what_revokes_nothing_or_too_much_is_refused(desk, store, which, said):
    for number in range(2):
        given = {"created": 0.0, "plan": None, "admin": False, "expires": None}
        store.add(f"n{number}", f"crl_same{number}", bytes([number]) * 32, **given)
    with pytest.raises(UsageError, match=said):
        desk.revoke(which, 0.0)
    assert all(key.is_valid(0.0) for key in store.all())


def test_a_wrong_whole_key_revokes_nothing_though_its_beginning_is_known(desk):
    made = desk.create("alice", 0.0, **PLAIN)
    with pytest.raises(UsageError):
        desk.revoke(made.secret[:-1] + "~", 0.0)
