"""What the admin API answers, and what it does."""

import json
from dataclasses import fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from corral.errors import PolicyError
from corral.guard.admin.policy_view import SECRETS, show_policy
from corral.guard.key_store import KeyStore
from corral.policy.model import ApiKey, Credentials, Jwt, LimitRule, Policy, Price, Quota, Telemetry, Upstream
from corral.policy.notation import parse_quota
from running_admin import OPEN, AdminFactory, start_admin
from running_guard import api_key, start_guard

__all__ = ["start_admin", "start_guard"]

HOURLY = LimitRule(name="hourly", quota=Quota(10, 3600.0), algorithm="window")
BY_MODEL = LimitRule(name="model", quota=Quota(100, 3600.0), per=("address", "model"), algorithm="window")
KEYS = (api_key("alice", "al1ce"), api_key("bob", "b0b"))


def chat(admin: Any, key: str) -> bytes:
    answer: bytes = admin.running.exchange(headers=f"Authorization: Bearer {key}\r\n")
    return answer


def test_the_status_sums_up(start_admin: AdminFactory) -> None:
    policy = Policy(auth="keys", keys=KEYS, admin=OPEN, limits=(replace(HOURLY, quota=Quota(2, 3600.0)),))
    admin = start_admin(policy=policy)
    for key in ("al1ce", "al1ce", "al1ce", "wrong"):
        chat(admin, key)
    admin.running.settled(4)
    told = admin.ask("/status").json
    assert told["ended"] == {
        "answered": 2,
        "failed": 0,
        "refused": 2,
        "refused_by_reason": {"quota_exceeded": 1, "invalid_api_key": 1},
    }
    assert told["tokens"] == {"input": 6, "output": 10}
    places = admin.running.guard.core.upstreams.balance.places
    assert (told["running"], told["waiting"], told["max_running"]) == (0, 0, places)


def test_clients_are_listed_by_the_share_that_they_used(start_admin: AdminFactory) -> None:
    policy = Policy(auth="keys", keys=KEYS, admin=OPEN, limits=(HOURLY, BY_MODEL))
    admin = start_admin(policy=policy)
    for key in ("b0b", "al1ce", "al1ce", "al1ce"):
        chat(admin, key)
    told = admin.ask("/clients").json
    assert told["counted"] == 3
    assert [(entry["partition"], entry["limit"], entry["remaining"]) for entry in told["clients"]] == [
        ({"key": "alice"}, "hourly", 7),
        ({"key": "bob"}, "hourly", 9),
        ({"address": "127.0.0.1", "model": "other"}, "model", 96),
    ]
    assert [entry["remaining"] for entry in admin.ask("/clients?most=1").json["clients"]] == [7]
    assert [entry["remaining"] for entry in admin.ask("/clients?name=bob").json["clients"]] == [9]
    assert [entry["remaining"] for entry in admin.ask("/clients?name=127.0.0.1").json["clients"]] == [96]
    assert [entry["remaining"] for entry in admin.ask("/clients?limit=model").json["clients"]] == [96]
    assert admin.ask("/clients?name=nobody").json == {"counted": 0, "clients": []}


def test_clients_without_keys_are_told_by_their_address(start_admin: AdminFactory) -> None:
    everyone = LimitRule(name="all", quota=Quota(100, 3600.0), per="everyone", algorithm="window")
    admin = start_admin(policy=Policy(auth="none", admin=OPEN, limits=(HOURLY, everyone)))
    admin.running.exchange()
    found = admin.ask("/clients").json["clients"]
    assert [entry["partition"] for entry in found] == [{"address": "127.0.0.1"}, {"everyone": "everyone"}]


def test_a_key_is_told_by_its_name_wherever_keys_are_counted_apart(start_admin: AdminFactory) -> None:
    by_key = replace(HOURLY, name="by-key", per="key")
    by_both = replace(BY_MODEL, name="by-both", per=("key", "model"))
    admin = start_admin(policy=Policy(auth="keys", keys=KEYS, admin=OPEN, limits=(by_key, by_both)))
    for key in ("b0b", "al1ce", "al1ce"):
        chat(admin, key)
    found = {entry["limit"]: entry for entry in admin.ask("/clients?name=alice").json["clients"]}
    assert found["by-key"]["partition"] == {"key": "alice"}
    assert found["by-both"]["partition"] == {"key": "alice", "model": "other"}
    assert found["by-key"]["remaining"] == 8
    assert "key_prefix" not in found["by-key"]
    assert admin.ask("/clients?name=bob").json["counted"] == 2


def test_keys_that_share_a_name_are_told_apart_by_how_they_begin(start_admin: AdminFactory, tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    given: dict[str, Any] = {"created": 0.0, "plan": None, "admin": False, "expires": None}
    with KeyStore.create(path) as store:
        store.add("carol", "crl_first1", sha256(b"f1rst").digest(), **given)
        store.add("carol", "crl_secon2", sha256(b"s3cond").digest(), **given)
    by_key = replace(HOURLY, name="by-key", per="key")
    policy = Policy(auth="keys", credentials=Credentials(store=str(path)), admin=OPEN, limits=(by_key,))
    admin = start_admin(policy=policy)
    for key in ("f1rst", "s3cond", "s3cond"):
        chat(admin, key)
    told = admin.ask("/clients?name=carol").json
    assert [(entry["key_prefix"], entry["remaining"]) for entry in told["clients"]] == [
        ("crl_secon2", 8),
        ("crl_first1", 9),
    ]


def test_amounts_are_in_the_unit_that_is_told(start_admin: AdminFactory) -> None:
    quotas = ("2 gpu-seconds/hour", "20 usd/day", "5 cost/hour", "1000 tokens/hour")
    limits = tuple(LimitRule(name=f"l{n}", quota=parse_quota(quota)) for n, quota in enumerate(quotas))
    policy = Policy(auth="none", admin=OPEN, limits=limits, price={"*": Price(input=1.0, output=2.0)})
    admin = start_admin(policy=policy)
    admin.running.exchange()
    admin.running.settled(1)
    found = {entry["limit"]: entry for entry in admin.ask("/clients").json["clients"]}
    told = [(entry["unit"], entry["quota"]) for _, entry in sorted(found.items())]
    assert told == [("gpu-seconds", 2), ("usd", 20), ("cost", 5), ("tokens", 1000)]
    assert 0 <= found["l0"]["remaining"] < 2
    assert 19.9 < found["l1"]["remaining"] < 20


def test_limits_in_shadow_are_marked(start_admin: AdminFactory) -> None:
    limits = (HOURLY, replace(HOURLY, name="tried", shadow=True))
    admin = start_admin(policy=Policy(auth="none", admin=OPEN, limits=limits))
    admin.running.exchange()
    told = {entry["limit"]: entry["shadow"] for entry in admin.ask("/clients").json["clients"]}
    assert told == {"hourly": False, "tried": True}
    admin = start_admin(policy=Policy(auth="none", admin=OPEN, limits=(HOURLY,), shadow=True))
    admin.running.exchange()
    assert admin.ask("/clients").json["clients"][0]["shadow"] is True


@pytest.mark.parametrize(
    "query",
    [
        "most=0", "most=1001", "most=x", "most=99999999999999999999", "most=0000000010000", "nmae=x", "most=1&most=2",
        "x",
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused(start_admin: AdminFactory, query: str) -> None:
    told = start_admin().ask(f"/clients?{query}")
    assert told.status == 400
    assert told.problem


def test_unknown_routes_and_methods_are_refused(start_admin: AdminFactory) -> None:
    admin = start_admin()
    told = admin.ask("/stats")
    assert told.status == 404
    assert "/status" in told.problem
    told = admin.ask("/reload")
    assert (told.status, told.head["allow"]) == (405, "POST")
    told = admin.ask("/status", "DELETE")
    assert (told.status, told.head["allow"]) == (405, "GET, HEAD")
    head = admin.ask("/status", "HEAD")
    assert (head.status, head.body) == (200, b"")


def test_what_the_api_itself_fails_at_is_an_error_without_details(
    start_admin: AdminFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = start_admin()
    monkeypatch.setattr(admin.server.api, "_access", None)
    told = admin.ask("/status")
    assert told.status == 500
    assert "None" not in told.problem


def test_the_policy_is_shown_without_what_is_secret(start_admin: AdminFactory) -> None:
    policy = Policy(auth="keys", keys=KEYS, admin=OPEN, limits=(HOURLY,))
    told = start_admin(policy=policy).ask("/policy")
    assert told.json["limits"][0]["quota"] == "10 requests per hour"
    assert told.json["keys"][0] == {"name": "alice", "sha256": "redacted", "admin": False, "plan": None}
    assert told.json["admin"]["key_sha256"] == "redacted"
    assert told.json["generation"]["max_tokens"] == policy.generation.max_tokens
    assert KEYS[0].sha256.encode() not in told.body


def test_every_secret_is_redacted() -> None:
    marker = "hush-hush"
    policy = Policy(
        keys=(ApiKey(name="a", sha256=marker),),
        jwt=Jwt(secret=marker, jwks_url=f"https://user:{marker}@issuer.example/keys?token={marker}"),
        upstream=Upstream(url=f"http://user:{marker}@host:1", api_key=marker),
        telemetry=Telemetry(endpoint=f"http://{marker}@collector/v1/traces", authorization=marker),
        admin=replace(OPEN, key_sha256=marker),
    )
    shown = json.dumps(show_policy(policy))
    assert marker not in shown
    assert "issuer.example" in shown


def test_settings_that_sound_secret_are_redacted() -> None:
    def names(kind: Any) -> set[str]:
        if not is_dataclass(kind):
            return set().union(*map(names, get_args(kind)))
        hints = get_type_hints(kind)
        return {field.name for field in fields(kind)}.union(*(names(hints[field.name]) for field in fields(kind)))

    sounding = {
        name for name in names(Policy) if any(word in name for word in ("secret", "key", "sha256", "auth", "pass"))
    }
    harmless = {"auth", "keys", "secret_file", "public_key", "tls_key"}  # what they name are files, or nothing
    assert sounding - harmless == SECRETS


def test_a_reload_is_asked_for(start_admin: AdminFactory) -> None:
    limits = (replace(HOURLY, quota=Quota(20, 3600.0)),)
    admin = start_admin(read=lambda before: replace(before, limits=limits))
    assert admin.ask("/reload", "POST").json == {"changed": ["limits"]}
    assert admin.ask("/policy").json["limits"][0]["quota"] == "20 requests per hour"
    assert admin.ask("/reload", "POST").json == {"changed": []}


def test_a_policy_that_cannot_be_used_is_told(start_admin: AdminFactory) -> None:
    def read(before: Policy) -> Policy:
        raise PolicyError("corral.toml, line 9: no.")

    told = start_admin(read=read).ask("/reload", "POST")
    assert told.status == 422
    assert "line 9" in told.problem


def test_without_a_file_there_is_nothing_to_reload(start_admin: AdminFactory) -> None:
    told = start_admin().ask("/reload", "POST")
    assert told.status == 422
    assert "--policy FILE" in told.problem
