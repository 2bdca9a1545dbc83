"""Which credential a request presents, and whom the ring lets in with it."""

from base64 import b64encode
from hashlib import sha256

import pytest

from corral.guard.credentials import EXPIRED, REVOKED, Credential, KeyRing, key_in_query, presented_key
from corral.guard.key_store import StoredKey
from running_guard import api_key


def stored(secret: str, name: str = "bob", **more) -> StoredKey:
    given = {"plan": None, "admin": False, "created": 0.0, "expires": None, "revoked": None, **more}
    return StoredKey(1, name, secret[:10], sha256(secret.encode()).digest(), **given)


@pytest.mark.parametrize(
    ("head", "presented"),
    [
        ({}, None),
        ({b"x-api-key": b"k"}, b"k"),
        ({b"authorization": b"Bearer k"}, b"k"),
        ({b"authorization": b"bearer  k "}, b"k"),
        ({b"authorization": b"Bearer k", b"x-api-key": b"other"}, b"k"),
        ({b"authorization": b"Basic " + b64encode(b"anyone:pass:word")}, b"pass:word"),
        ({b"authorization": b"BASIC " + b64encode(b":k")}, b"k"),
        ({b"authorization": b"Basic " + b64encode(b"no colon")}, b""),
        ({b"authorization": b"Basic not base64!"}, b""),
        ({b"authorization": b"Basic"}, b""),
        ({b"authorization": b"Digest k", b"x-api-key": b"k"}, b""),
        ({b"authorization": b""}, b""),
    ],
)
def test_a_credential_stands_in_a_header(head, presented):
    assert presented_key(head) == presented


@pytest.mark.parametrize(
    "query",
    [b"api_key=x", b"key=x", b"token=x", b"access_token=x", b"a=1&API-Key=x", b"a=1;apikey=x", b"api%5Fkey=x",
     b"x-api-key=", b"key[]=x", b"auth=Bearer%20x", b"anything=crl_0"],
)  # fmt: skip
def test_a_key_in_a_query_is_seen(query):
    assert key_in_query(query)


@pytest.mark.parametrize("query", [b"", b"model=x", b"keys=1", b"token", b"max_tokens=5", b"q=key", b"&&;="])
def test_other_queries_carry_no_key(query):
    assert not key_in_query(query)


def test_the_ring_holds_the_policys_keys_and_the_stores():
    ring = KeyRing([api_key("alice", "a", admin=True)], [stored("b", plan="pro", expires=50.0)])
    assert len(ring) == 2
    assert ring.find(b"a", 0.0)[:5] == ("alice", "alice", None, True, None)
    assert ring.find(b"b", 49.9)[:5] == ("bob", "bob", "pro", False, 50.0)
    assert ring.find(b"b", 50.0) is EXPIRED
    assert ring.find(b"c", 0.0) is None
    assert ring.find(b"", 0.0) is None


def test_the_stores_keys_are_replaced_whole():
    ring = KeyRing([api_key("alice", "a")], [stored("b")])
    before = ring.generation
    ring.replace_stored([stored("c", revoked=1.0)])
    assert ring.generation == before + 1
    assert ring.find(b"b", 0.0) is None
    assert ring.find(b"c", 0.0) is REVOKED
    assert isinstance(ring.find(b"a", 0.0), Credential)


def test_a_key_in_both_can_be_revoked_in_the_store():
    ring = KeyRing([api_key("alice", "a")], [stored("a", "alice", revoked=1.0)])
    assert ring.find(b"a", 0.0) is REVOKED
