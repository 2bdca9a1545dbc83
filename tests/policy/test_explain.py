"""What a policy says of itself."""

from dataclasses import replace

import pytest

from corral.errors import PolicyError
from corral.policy.address import Endpoint, parse_endpoint
from corral.policy.explain import asks_for_keys, explain, warnings
from corral.policy.load import load_policy
from corral.policy.model import (
    ApiKey,
    Concurrency,
    Credentials,
    Generation,
    Identity,
    Jwt,
    LimitRule,
    Listen,
    Plan,
    Policy,
    Quota,
    Routes,
)
from corral.policy.notation import parse_quota
from corral.policy.shadow import with_shadow
from corral.policy.template import literal

KEY = ApiKey(name="alice", sha256="ab" * 32)
EVERYWHERE = Listen(address="0.0.0.0:8080")


@pytest.mark.parametrize(
    ("policy", "asked"),
    [
        (Policy(), False),
        (Policy(keys=(KEY,)), True),
        (Policy(listen=EVERYWHERE), True),
        (Policy(identity=Identity(trusted_proxies=("127.0.0.1/32",))), True),
        (Policy(auth="none", listen=EVERYWHERE), False),
        (Policy(auth="keys"), True),
        (Policy(credentials=Credentials(store="keys.db")), True),
        (Policy(credentials=Credentials(store="")), False),
        (Policy(jwt=Jwt(secret="x" * 32)), True),
    ],
)
def test_a_key_is_asked_for_unless_only_this_machine_can_ask(policy, asked):
    assert asks_for_keys(policy) is asked


def test_the_explanation_covers_what_matters():
    said = "\n".join(explain(Policy(keys=(KEY,))))
    for piece in (
        "127.0.0.1:8080",
        "alice",
        "30 requests per minute",
        "2,048 tokens",
        "1 MiB",
        "as llama-server has slots",
    ):
        assert piece in said


def test_the_explanation_follows_the_policy():
    window = LimitRule(name="w", quota=Quota(30, 60.0), algorithm="window", per="everyone")
    policy = Policy(
        auth="keys",
        limits=(window,),
        routes=Routes(state="deny", management="admin"),
        identity=Identity(trusted_proxies=("10.0.0.0/8",)),
        generation=Generation(grammar=True),
    )
    said = "\n".join(explain(policy))
    for piece in ("All clients together", "counted from the first request", "one is made at start", "are closed",
                  "admin keys only", "10.0.0.0/8", "grammars"):  # fmt: skip
        assert piece in said
    assert "No request quotas apply." in explain(Policy(limits=()))


def test_the_explanation_names_the_store_and_the_plans():
    pro = Plan(limits=(LimitRule(name="p", quota=Quota(9, 1.0)),), priority=2.5, models=("big", "small"), max_tokens=77)
    said = "\n".join(explain(Policy(credentials=Credentials(store="/x/keys.db"), plan={"pro": pro, "free": Plan()})))
    for piece in ("/x/keys.db", 'On plan "pro"', "9 requests per second", "77 tokens", "big, small", "priority 2.5"):
        assert piece in said
    assert '"free"' not in said
    assert "one is made at start" not in said


def test_the_explanation_says_whose_tokens_are_let_in():
    jwt = Jwt(jwks_url="https://i.example/jwks", issuer="https://i.example", audience="llm", plan_claim="tier")
    said = "\n".join(explain(Policy(jwt=jwt)))
    assert "a token from https://i.example for llm, signed with the keys at https://i.example/jwks" in said
    assert "tier which plan" in said
    assert "one is made at start" not in said
    assert "hunter2" not in "\n".join(explain(Policy(jwt=Jwt(secret="hunter2"))))
    assert "jwt.audience is not set" in warnings(Policy(jwt=Jwt(secret="x")))[0]


def test_what_is_unwise_is_said():
    assert warnings(Policy()) == []
    assert "Anybody who can reach" in warnings(Policy(auth="none", listen=EVERYWHERE))[0]
    assert "in the clear" in warnings(Policy(keys=(KEY,), listen=EVERYWHERE))[0]
    risky = Policy(limits=(), generation=Generation(grammar=True), routes=Routes(management="admin"))
    assert len(warnings(risky)) == 3


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("[::1]:80", "::1", 80, True),
        ("localhost:0", "localhost", 0, True),
        (":8080", "0.0.0.0", 8080, False),
        ("example.org:1", "example.org", 1, False),
        ("192.0.2.1:1", "192.0.2.1", 1, False),
    ],
)
def test_addresses_are_read(text, host, port, loopback):
    endpoint = parse_endpoint(text)
    assert endpoint == Endpoint(host, port)
    assert endpoint.is_loopback is loopback
    assert parse_endpoint(str(endpoint)) == endpoint


def test_what_is_no_address_is_refused():
    with pytest.raises(PolicyError):
        parse_endpoint("8080")


def test_every_rule_can_be_satisfied():
    assert load_policy(text="") == replace(Policy())


def test_one_is_not_many():
    said = "\n".join(
        explain(
            Policy(
                keys=(KEY,),
                limits=(LimitRule(name="one", quota=Quota(1, 60.0)),),
                max_failed_logins=Quota(1, 60.0),
                concurrency=Concurrency(max_running=1),
                generation=Generation(max_tokens=1, max_prompt=1),
            )
        )
    )
    for piece in ("presents the one key: alice", "1 request per minute", "1 time per minute", "1 request runs at once",
                  "1 token;", "1 character,"):  # fmt: skip
        assert piece in said


def test_token_limits_are_explained_and_read_back():
    policy = Policy(
        keys=(KEY,),
        limits=(
            LimitRule(name="all", quota=Quota(20_000, 3600.0, "tokens"), burst=4000),
            LimitRule(name="out", quota=Quota(5000, 60.0, "output tokens"), algorithm="window"),
        ),
    )
    said = "\n".join(explain(policy))
    for piece in ("may use 20,000 tokens per hour", "at most 4,000 at once", "may use 5,000 output tokens per minute",
                  "No request quotas apply.", "holds what it may use"):  # fmt: skip
        assert piece in said
    assert literal(policy.limits[1].quota) == '"5000 output tokens per minute"'
    assert parse_quota("5000 output tokens per minute") == policy.limits[1].quota
    assert not [line for line in warnings(policy) if "through at once" in line]


def test_a_token_limit_below_one_answer_is_a_warning_with_both_numbers():
    plan = Plan(limits=(LimitRule(name="free", quota=Quota(500, 60.0, "output tokens")),), max_tokens=600)
    policy = Policy(limits=(LimitRule(name="all", quota=Quota(1000, 3600.0, "tokens")),), plan={"free": plan})
    first, second = (line for line in warnings(policy) if "through at once" in line)
    assert '"all" lets 1,000 tokens' in first
    assert "2,048" in first
    assert '"free" lets 500 output tokens' in second
    assert "600" in second


def test_what_is_in_shadow_is_said_first_and_warned_of():
    text = """
        [[limits]]
        name = "client"
        quota = "30/minute"
        [[limits]]
        name = "stricter"
        quota = "5/minute"
        shadow = true
        [plan.pro]
        [[plan.pro.limits]]
        name = "pro"
        quota = "1/hour"
        shadow = true
    """
    policy = load_policy(text=text)
    said = explain(policy)
    assert said[0] == 'In shadow, counting and telling, but refusing nothing: "stricter", "pro".'
    assert sum("In shadow: it counts and tells, and refuses nothing." in sentence for sentence in said) == 2
    assert not any("in shadow" in sentence for sentence in warnings(policy))
    tried = replace(policy, limits=policy.limits[1:])
    assert "All limits are in shadow: one client can take the server from all others." in warnings(tried)
    assert "No request quotas apply." in explain(tried)


def test_a_whole_policy_in_shadow_says_so_before_all_else_and_what_it_enforces():
    policy = load_policy(text="shadow = true")
    said = explain(policy)
    assert said[0].startswith("THE WHOLE POLICY IS IN SHADOW")
    assert said[1].startswith("Still enforced: credentials")
    assert "The whole policy is in shadow: one client can take the server from all others." in warnings(policy)
    forced = with_shadow(policy)
    assert all(limit.shadow for limit in forced.limits)
    assert with_shadow(Policy()) == Policy()
