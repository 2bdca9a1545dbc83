"""How long a server will compute, and what tokens cost."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.engine.compute import MOST_MODELS, ComputeRates
from corral.engine.price import MILLION, Prices
from corral.engine.tokens import Tokens
from corral.policy.model import ANY_MODEL, Price


def test_the_rate_follows_what_is_measured_and_leans_to_too_much():
    rates = ComputeRates()
    for _ in range(200):
        rates.learn("m", Tokens(100, 90), 200.0)  # 2 ms a token
    assert rates.estimate("m", Tokens(0, 1000)) == pytest.approx(2000, rel=0.05)
    rates.learn("m", Tokens(0, 100), 1000.0)
    assert rates.estimate("m", Tokens(0, 1000)) > 5000
    assert rates.estimate("m", Tokens(0, 0)) == 1


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(allow_nan=True)), max_size=50))
def test_whatever_is_reported_the_estimate_stays_a_number(reports):
    rates = ComputeRates()
    for prompt, answer, measured in reports:
        rates.learn("m", Tokens(prompt, answer), min(measured, 1e12))
        assert rates.estimate("m", Tokens(10, 10)) >= 1


def test_the_rates_of_invented_models_are_bounded():
    rates = ComputeRates()
    for number in range(2 * MOST_MODELS):
        rates.learn(f"m{number}", Tokens(10, 10), 20.0)
    assert len(rates) == MOST_MODELS


def test_models_have_their_price_and_all_others_one():
    prices = Prices({"big": Price(input=3.0, output=15.0), ANY_MODEL: Price(input=0.15, output=0.6)})
    assert prices.cost("big", Tokens(1_000_000, 0)) == 3 * MILLION
    assert prices.cost("big", Tokens(0, 2)) == 30
    assert prices.cost("invented", Tokens(1_000_000, 1_000_000)) == 750_000
    assert prices.cost(None, Tokens(1, 0)) == 1  # 0.15 millionths, rounded up
    assert prices.cost(None, Tokens(0, 0)) == 0


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**7), st.integers(0, 10**7))
def test_costs_are_exact_and_rounded_up_once(read, written, per_input, per_output):
    prices = Prices({ANY_MODEL: Price(input=per_input / MILLION, output=per_output / MILLION)})
    exact = Fraction(read * per_input + written * per_output, MILLION)
    assert 0 <= prices.cost("m", Tokens(read, written)) - exact < 1


@given(st.integers(0, 10**6), st.integers(0, 10**9), st.integers(0, 10**7), st.integers(1, 10**7))
def test_what_is_affordable_costs_no_more_than_there_is(prompt, money, per_input, per_output):
    prices = Prices({ANY_MODEL: Price(input=per_input / MILLION, output=per_output / MILLION)})
    most = prices.affordable("m", prompt, money)
    if prices.cost("m", Tokens(prompt, 0)) <= money:
        assert prices.cost("m", Tokens(prompt, most)) <= money < prices.cost("m", Tokens(prompt, most + 1))
    assert Prices({ANY_MODEL: Price(input=0.0, output=0.0)}).affordable("m", prompt, money) is None
