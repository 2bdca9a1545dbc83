"""Whom limits count apart, and whom together: through the pipeline, and as names."""

from dataclasses import replace
from hashlib import sha256

import pytest

from corral.dialects import dialect
from corral.engine.limit import limits_from
from corral.guard.authenticator import Authenticator
from corral.guard.caller import Visit
from corral.guard.credentials import Credential, KeyRing
from corral.guard.key_store import StoredKey
from corral.guard.logins import Logins
from corral.guard.partition import Partitions
from corral.guard.pipeline import Pipeline
from corral.guard.refusal import Refusal
from corral.policy.model import ApiKey, Identity, LimitRule, Plan, Policy, Quota
from corral.policy.plans import all_limits
from corral.policy.rules import check
from corral.stores.memory import MemoryStore

CHAT = b"/v1/chat/completions"
PLANS = {"pro": Plan(models=("big", "small")), "basic": Plan(models=("small",))}


def digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()


def key(name: str, plan: str | None = None) -> ApiKey:
    return ApiKey(name=name, sha256=digest(name).hex(), plan=plan)


def policy(*limits: LimitRule, auth="keys", **more) -> Policy:
    keys = (key("alice", "pro"), key("bob", "basic"), key("carol"), key("dave", "pro")) if auth == "keys" else ()
    return Policy(auth=auth, limits=limits, keys=keys, plan=PLANS if auth == "keys" else {}, **more)


def rule(per, amount=1, name="few", unit="requests") -> LimitRule:
    return LimitRule(name=name, quota=Quota(amount, 3600.0, unit), per=per)


class Door:
    """A pipeline, asked in virtual time."""

    def __init__(self, policy: Policy, ring: KeyRing | None = None) -> None:
        self.store = MemoryStore(limits_from(all_limits(policy)))
        authenticator = Authenticator(ring or KeyRing(policy.keys), policy.plan)
        self.pipeline = Pipeline(
            policy, dialect("llamacpp"), self.store, Logins(policy.max_failed_logins), check_host=False,
            open_to_all=policy.auth == "none", authenticator=authenticator,
        )  # fmt: skip
        self.pipeline.tick(0.0, 1_760_000_000.0)
        self.now = 1.0

    def ask(self, secret="", model="small", address="10.0.0.1", path=CHAT) -> Visit | Refusal:
        head = {b"host": b"127.0.0.1"}
        if secret:
            head[b"x-api-key"] = secret.encode()
        if path == b"/v1/models":
            return self.pipeline.enter(b"GET", path, head, self.pipeline.session(address), self.now)
        outcome = self.pipeline.enter(b"POST", path, head, self.pipeline.session(address), self.now)
        if isinstance(outcome, Visit):
            body = b'{"messages":[{"role":"user","content":"hi"}],"prompt":"hi","content":"hi","model":"%b"}'
            prepared = self.pipeline.prepare(outcome, head, body % model.encode(), self.now)
            return prepared if isinstance(prepared, Refusal) else outcome
        return outcome

    def passes(self, *args, **kwargs) -> bool:
        outcome = self.ask(*args, **kwargs)
        assert isinstance(outcome, Visit) or outcome.kind == "quota_exceeded", outcome
        return isinstance(outcome, Visit)


def test_prefix_counts_networks():
    door = Door(policy(rule("prefix"), auth="none"))
    assert door.passes(address="10.1.2.3")
    assert not door.passes(address="10.1.2.250")
    assert door.passes(address="10.1.3.3")
    assert door.passes(address="2001:db8:1:1::1")
    assert not door.passes(address="2001:db8:1:ffff::1")
    assert door.passes(address="2001:db8:2:1::1")
    assert door.passes(address="::ffff:10.9.9.9")
    assert not door.passes(address="10.9.9.8")


def test_prefix_lengths_are_settings():
    door = Door(policy(rule("prefix"), auth="none", identity=Identity(ipv4_prefix=16, ipv6_prefix=64)))
    assert door.passes(address="10.1.2.3")
    assert not door.passes(address="10.1.200.3")
    assert door.passes(address="2001:db8:1:1::1")
    assert door.passes(address="2001:db8:1:2::1")


def test_a_peer_that_is_no_address_is_its_own_network():
    assert Partitions(Policy()).name(("prefix",), "", None) == ""


def test_a_rotated_key_is_another_key_of_the_same_user():
    old, new = (
        StoredKey(n, "erin", "crl_", digest(secret), None, admin=False, created=0.0, expires=None, revoked=None)
        for n, secret in ((1, "old"), (2, "new"))
    )
    for per, second in (("key", True), ("user", False), ("client", False)):
        door = Door(policy(rule(per)), KeyRing((), (old, new)))
        assert door.passes("old")
        assert not door.passes("old")
        assert door.passes("new") is second, per


def test_a_user_is_one_whether_known_by_key_or_token_and_an_address_without_either():
    names = Partitions(Policy())
    token = Credential("jwt:alice", "alice", None, admin=False, expires=None)
    held = Credential("alice", "alice", None, admin=False, expires=None, id="0f")
    assert names.name(("user",), "10.0.0.1", token) == names.name(("user",), "10.0.0.2", held)
    assert names.name(("client",), "10.0.0.1", token) != names.name(("client",), "10.0.0.2", held)
    assert names.name(("user",), "10.0.0.1", None) == "10.0.0.1"
    assert names.name(("key",), "10.0.0.1", token) == "jwt:alice"


def test_plan_counts_all_who_are_on_it():
    door = Door(policy(rule("plan")))
    assert door.passes("alice")
    assert not door.passes("dave")
    assert door.passes("bob")
    assert door.passes("carol")


def test_global_is_everyone():
    assert rule("global").partitions == ("everyone",)
    door = Door(policy(rule("global"), auth="none"))
    assert door.passes(address="10.0.0.1")
    assert not door.passes(address="10.9.0.1")


def test_route_counts_routes_and_an_alias_is_its_route():
    door = Door(policy(rule("route"), auth="none"))
    assert door.passes(path=CHAT)
    assert not door.passes(path=b"/chat/completions", address="10.7.7.7")
    assert door.passes(path=b"/completion")
    assert door.passes(path=b"/v1/models")
    assert not door.passes(path=b"/v1/models")


def test_a_denial_on_one_route_denies_no_other():
    door = Door(policy(rule(("client", "route")), auth="none"))
    session = door.pipeline.session("10.0.0.1")
    head = {b"host": b"127.0.0.1"}

    def enter(path: bytes) -> bool:
        return isinstance(door.pipeline.enter(b"POST", path, head, session, door.now), Visit)

    assert [enter(CHAT), enter(CHAT), enter(b"/completion"), enter(CHAT), enter(b"/completion")] == [
        True, False, True, False, False,
    ]  # fmt: skip


def test_model_counts_known_models_and_all_inventions_as_one():
    limited = replace(policy(rule(("key", "model"))), keys=(key("carol"), key("erin")))
    door = Door(limited)
    assert door.passes("carol", "small")
    assert not door.passes("carol", "small")
    assert door.passes("carol", "big")
    assert door.passes("carol", "invented-1")
    assert not any(door.passes("carol", f"invented-{number}") for number in range(2, 50))
    assert door.passes("erin", "small")
    assert len(door.store) == 4


def test_memory_is_bounded_whatever_models_are_invented():
    limited = replace(policy(rule("model", 10**6), rule(("key", "model"), 10**6, "both")), keys=(key("carol"),))
    door = Door(limited)
    session = door.pipeline.session("10.0.0.1")
    head = {b"host": b"127.0.0.1", b"x-api-key": b"carol"}
    for number in range(500):
        visit = door.pipeline.enter(b"POST", CHAT, head, session, door.now)
        body = b'{"messages":[{"role":"user","content":"hi"}],"model":"m%d"}' % number
        assert isinstance(door.pipeline.prepare(visit, head, body, door.now), bytes)
    assert len(door.store) == 2
    assert len(session.caller.models) == 1


def test_what_the_body_refuses_gives_back_what_the_head_took():
    limited = replace(
        policy(rule("client", 5, "requests"), rule(("key", "model"), 1, "one-a-model")), keys=(key("carol"),)
    )
    door = Door(limited)
    assert door.passes("carol", "small")
    refused = door.ask("carol", "small")
    assert isinstance(refused, Refusal)
    assert (refused.kind, refused.standing.name) == ("quota_exceeded", "one-a-model")
    assert refused.retry_after > 3000
    for _ in range(30):
        assert not door.passes("carol", "small")
    caller = door.pipeline._callers.admit("10.0.0.1", KeyRing(limited.keys).find(b"carol", 0.0))
    assert [standing.remaining for standing in door.store.peek(caller.limits, door.now)] == [4]


def test_what_tokens_refuse_gives_back_what_the_model_took_too():
    limited = replace(
        policy(rule(("key", "model"), 5, "calls"), rule("client", 3000, "tokens", unit="tokens")), keys=(key("carol"),)
    )
    door = Door(limited)
    visit = door.ask("carol", "small")
    assert isinstance(visit, Visit)
    for _ in range(10):
        refused = door.ask("carol", "small")
        assert isinstance(refused, Refusal)
        assert refused.kind == "tokens_exceeded"
    by_model = door.pipeline._callers.on_model(visit.caller, "small")
    assert [standing.remaining for standing in door.store.peek(by_model.requests, door.now)] == [4]
    door.pipeline.give_back(visit, door.now)
    assert [standing.remaining for standing in door.store.peek(by_model.requests, door.now)] == [5]


def test_the_tightest_is_told_whether_it_counts_models_or_not():
    limited = replace(policy(rule("client", 10, "roomy"), rule(("key", "model"), 3, "tight")), keys=(key("carol"),))
    assert Door(limited).ask("carol", "small").standing.name == "tight"


@pytest.mark.parametrize(
    ("per", "open_to_all", "wrong"),
    [
        ("key", True, 'auth is "none"'),
        ("user", True, 'write "address"'),
        ("plan", True, 'write "everyone"'),
        ("plan", False, "add a plan"),
        ("model", False, "name the models in a plan"),
        ((), False, 'write "everyone"'),
        (("key", "key"), False, "twice"),
        (("everyone", "key"), False, "stands alone"),
        (("global", "model"), False, "stands alone"),
    ],
)
def test_a_limit_that_cannot_apply_is_an_error(per, open_to_all, wrong):
    limited = Policy(auth="none" if open_to_all else "keys", limits=(rule(per),))
    found = [message for path, message in check(limited) if path[-1] == "per"]
    assert any(wrong in message for message in found), found
