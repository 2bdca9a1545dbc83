"""Limits on what runs at once, on computing time and on money, as a policy says them."""

import pytest

from corral.errors import PolicyError
from corral.policy.explain import explain, warnings
from corral.policy.load import load_policy

PRICES = '[price."*"]\ninput = 0.15\noutput = 0.6\n'


def limit(quota: str, more: str = "", rest: str = "") -> str:
    return f'[[limits]]\nname = "a"\nquota = "{quota}"\n{more}\n{rest}'


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (limit("20 usd/day"), r'limits\[0\].quota: costs are counted by prices.*add \[price."\*"\]'),
        (limit("20 usd/day", "burst = 3", PRICES), "a calendar day has no burst"),
        (limit("20 usd/hour", "burst = 3", PRICES), "costs have no burst"),
        (limit("4 concurrent requests", "burst = 3"), "has no burst"),
        (limit("4 concurrent requests", 'algorithm = "window"'), "counted in no window"),
        (limit("60 gpu-seconds/hour", "burst = 61"), "61 at once are more than the 60"),
        (PRICES, "no limit counts costs"),
        (limit("20 usd/day", "", '[price."*"]\ninput = 1\n'), "output: this is missing"),
        (limit("20 usd/day", "", '[price."*"]\ninput = "1"\noutput = 1'), "is no price"),
        (limit("2 usd/day", "", '[[limits]]\nname = "b"\nquota = "9 eur/month"\n' + PRICES), r"several \(eur, usd\)"),
        ('[budgets]\nstore = "b.db"', "there is nothing to keep"),
        ('max_failed_logins = "4 concurrent requests"', "this counts requests"),
    ],
)
def test_what_does_not_fit_is_an_error(text, wrong):
    with pytest.raises(PolicyError, match=wrong):
        load_policy(text=text)


def test_what_each_unit_means_is_said():
    policy = load_policy(
        text=limit("4 concurrent requests")
        + '[[limits]]\nname = "gpu"\nquota = "600 gpu-seconds/hour"\nper = "user"\n'
        + '[[limits]]\nname = "wallet"\nquota = "20 usd/day"\nper = "global"\n'
        + '[[limits]]\nname = "mine"\nquota = "1.5 usd/hour"\nper = ["key", "model"]\n'
        + PRICES
        + '[price."llama-3"]\ninput = 1\noutput = 2\n'
    )
    said = "\n".join(explain(policy))
    assert 'may have 4 concurrent requests (limit "a"), running or waiting for a place.' in said
    assert "Each user (all its keys and tokens together) may use 600 gpu-seconds per hour" in said
    assert 'All clients together may spend 20 usd per day (limit "wallet"), by the calendar\'s day in UTC' in said
    assert "Each key, for each model, may spend 1.5 usd per hour" in said
    assert "Every other model costs 0.15 for a million tokens of prompts and 0.6 for a million of answers." in said
    assert "The model llama-3 costs 1 for" in said
    assert any("clients choose the lowest" in warning for warning in warnings(policy))


def test_computing_time_needs_a_server_that_reports_it():
    text = limit("60 gpu-seconds/hour", "", '[upstream]\ndialect = "openai"')
    assert any("Only llama-server and Ollama report" in warning for warning in warnings(load_policy(text=text)))


def test_a_budget_that_is_less_than_one_answer_is_warned_of():
    narrow, roomy = (load_policy(text=limit(quota, "", PRICES)) for quota in ("0.001 usd/day", "1 usd/day"))
    (said,) = (warning for warning in warnings(narrow) if "may cost" in warning)
    assert 'Limit "a" has 0.001 usd, but the answers to one request may cost 0.001229 usd' in said
    assert not any("may cost" in warning for warning in warnings(roomy))


def test_who_has_prompts_counted_is_said():
    said = "\n".join(explain(load_policy(text=limit("300 tokens/hour", "exact = true"))))
    assert 'For "a" the server counts each prompt before it is let in' in said
    assert "counts each prompt" not in "\n".join(explain(load_policy(text=limit("300 tokens/hour"))))
