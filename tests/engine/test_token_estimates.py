"""Estimates of prompts, and how they follow what servers count."""

import random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.engine.estimate import LEAST_FACTOR, MOST_FACTOR, MOST_MODELS, Corrections, estimate


def of(text: str) -> float:
    return estimate(orjson.dumps({"prompt": text}), len(text))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a" * 400, 100),
        ("1" * 100, 50),
        ("ж" * 100, 50),
        ("語" * 100, 100),
        ("ก" * 100, 100),
        ("😀" * 10, 20),
        ("word " * 80 + "語" * 10, 110),
        ("", 0),
    ],
)
def test_each_script_has_its_length(text, tokens):
    assert of(text) == pytest.approx(tokens)


@given(st.text())
def test_any_text_has_an_estimate_between_a_quarter_and_two_tokens_a_character(text):
    assert 0.25 * len(text) - 1e-6 <= of(text) <= 2 * len(text) + 1e-6


def test_token_ids_are_not_estimated_below_their_number():
    ids = list(range(1000, 1100))
    assert estimate(orjson.dumps({"prompt": ids}), 4 * len(ids)) >= 100


def test_a_model_takes_the_factor_of_what_its_server_counts():
    known = Corrections()
    for _ in range(200):
        known.learn("m", 1000.0, 1500)
    assert known.factor("m") == pytest.approx(1.5, abs=0.01)
    assert known.correct("m", 1000.0) in range(1490, 1502)


def test_estimates_lean_to_too_many_rather_than_to_too_few():
    chance = random.Random(20260102)
    known, below, seen = Corrections(), 0, 4000
    for number in range(seen + 500):
        counted = round(1000 * chance.uniform(0.6, 1.6))
        if number >= 500:
            below += known.correct("m", 1000.0) < counted
        known.learn("m", 1000.0, counted)
    assert below < 0.3 * seen


def test_long_prompts_teach_more_than_short_ones():
    short, long = Corrections(), Corrections()
    short.learn("m", 5.0, 20)
    long.learn("m", 5000.0, 20000)
    assert 1.0 < short.factor("m") < 1.1 < long.factor("m")


def test_unknown_models_take_the_factor_of_all():
    known = Corrections()
    for _ in range(100):
        known.learn("a", 1000.0, 2000)
    assert known.factor("b") == pytest.approx(2.0, abs=0.02)
    assert known.factor(None) == known.factor("b")


@given(st.lists(st.tuples(st.text(max_size=3), st.floats(0, 1e6), st.integers(-5, 10**9)), max_size=200))
def test_no_factor_leaves_its_bounds_whatever_is_counted(lessons):
    known = Corrections()
    for model, estimated, counted in lessons:
        known.learn(model, estimated, counted)
        assert LEAST_FACTOR <= known.factor(model) <= MOST_FACTOR
        assert known.correct(model, 0.0) == 1


def test_invented_models_take_bounded_memory():
    known = Corrections()
    for number in range(10_000):
        known.learn(f"model-{number}", 1000.0, 3000)
    assert len(known) == MOST_MODELS
    assert known.factor("never seen") == pytest.approx(3.0, abs=0.01)
