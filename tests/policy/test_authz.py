"""What a policy means without bodies: what cannot apply is said, and nothing is passed over in silence."""

import re

import pytest

from corral.errors import PolicyError
from corral.policy.authz import APPLIES, INSTEAD, LOOPBACK, explain_authz, for_authz, settings
from corral.policy.load import load_policy, written_settings
from corral.policy.model import Policy

WRONG = {
    # what is written: the setting that the message names, and what it says to do
    "[concurrency]\nmax_running = 8": ("concurrency.max_running", "-np"),
    "[generation]\nmax_tokens = 100": ("generation.max_tokens", "corral guard UPSTREAM"),
    '[upstream]\nurl = "http://127.0.0.1:9"': ("upstream.url", "proxy"),
    '[upstream]\napi_key = "x"': ("upstream.api_key", "proxy"),
    '[bounds]\nmax_body = "2MiB"': ("bounds.max_body", "client_max_body_size"),
    "[bounds]\nmax_depth = 9": ("bounds.max_depth", "relays"),
    '[bounds]\ntotal_timeout = "9s"': ("bounds.total_timeout", "proxy"),
    '[[limits]]\nname = "t"\nquota = "9 tokens/day"': ("limits[0].quota", '"t" counts tokens'),
    '[[limits]]\nname = "e"\nquota = "9 tokens/day"\nexact = true': ("limits[0].quota", "corral guard UPSTREAM"),
    '[[limits]]\nname = "o"\nquota = "9 output tokens/day"': ("limits[0].quota", "counts output tokens"),
    '[[limits]]\nname = "c"\nquota = "4 concurrent requests"': ("limits[0].quota", "counts concurrent requests"),
    '[[limits]]\nname = "g"\nquota = "600 gpu-seconds/hour"': ("limits[0].quota", "counts gpu-seconds"),
    '[[limits]]\nname = "p"\nquota = "9 usd/hour"\n[price."*"]\ninput = 1\noutput = 2': (
        "price",
        "corral guard UPSTREAM",
    ),
    '[[limits]]\nname = "u"\nquota = "20 usd/day"\n[price."*"]\ninput = 1\noutput = 2': ("limits[0].quota", "cost"),
    '[[plan.pro.limits]]\nname = "t"\nquota = "9 input tokens/day"': ("plan.pro.limits[0].quota", "input tokens"),
    '[[limits]]\nname = "m"\nquota = "9/day"\nper = ["key", "model"]\n[plan.pro]\nmodels = ["m"]': (
        "limits[0].per",
        "counts models",
    ),
    '[plan.pro]\nmodels = ["m"]': ("plan.pro.models", "relays"),
    "[plan.pro]\nmax_tokens = 9": ("plan.pro.max_tokens", "relays"),
    "[plan.pro]\npriority = 2": ("plan.pro.priority", "relays"),
    '[listen]\naddress = "0.0.0.0:8082"': ("identity.trusted_proxies", "proxies' addresses"),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_apply_is_an_error_that_says_what_to_do(text):
    name, instead = WRONG[text]
    with pytest.raises(PolicyError) as raised:
        for_authz(load_policy(text=text))
    line = next(line for line in str(raised.value).splitlines() if line.startswith(f"{name}: "))
    assert instead in line


def test_all_that_is_wrong_is_said_at_once():
    text = "[concurrency]\nmax_running = 8\nmax_wait = 9\n[generation]\nmax_tokens = 100\n[plan.pro]\nmodels = ['m']"
    with pytest.raises(PolicyError) as raised:
        for_authz(load_policy(text=text))
    assert len(str(raised.value).splitlines()) == 5


def test_a_default_that_somebody_wrote_is_an_error_too(tmp_path):
    path = tmp_path / "corral.toml"
    path.write_text('auth = "keys"\n[generation]\nmax_tokens = 2048\n[bounds]\nmax_headers = 64\n')
    written = written_settings(path, {"CORRAL_CONCURRENCY_MAX_WAIT": "30", "CORRAL_API_KEY": "x", "HOME": "/"})
    assert written == {"auth", "generation.max_tokens", "bounds.max_headers", "concurrency.max_wait"}
    for_authz(load_policy(path))
    with pytest.raises(PolicyError, match=r"(?s)concurrency\.max_wait: .*generation\.max_tokens: ") as raised:
        for_authz(load_policy(path), written)
    assert "max_headers" not in str(raised.value)


def test_defaults_are_no_errors_and_what_they_leave_open_is_said():
    policy = for_authz(Policy())
    assert policy.identity.trusted_proxies == LOOPBACK
    said = "\n".join(explain_authz(policy))
    assert "relays nothing" in said
    assert "Not enforced" in said
    assert "Answers 127.0.0.0/8, ::1/128, and nobody else" in said
    assert "30 requests per minute" in said
    assert "8081" not in said
    assert re.search(r"tokens, models, quotas of anything but requests, places", said)


def test_the_proxies_that_are_named_are_the_only_ones():
    text = '[listen]\naddress = "0.0.0.0:8082"\n[identity]\ntrusted_proxies = ["10.0.0.0/8"]'
    assert for_authz(load_policy(text=text)).identity.trusted_proxies == ("10.0.0.0/8",)


def test_a_dialect_and_the_bounds_of_connections_apply():
    text = '[upstream]\ndialect = "openai"\n[bounds]\nmax_head = 9000\nidle_timeout = 5\n[routes]\nstate = "deny"'
    assert for_authz(load_policy(text=text), {"upstream.dialect", "bounds.max_head"}).bounds.max_head == 9000


def test_every_setting_either_applies_or_has_something_to_do_instead():
    """Who adds a setting says here which: in APPLIES if it needs the head of a request alone, else in INSTEAD."""
    names = [name for name, _ in settings(Policy())]
    for name in names:
        places = {name, name.partition(".")[0]}
        assert bool(places & APPLIES) != bool(places & set(INSTEAD)) or name == "upstream.dialect", name
    for known in (*APPLIES, *INSTEAD):
        assert any(name == known or name.startswith(f"{known}.") for name in names), known
