"""What is reserved, and what is charged."""

from hypothesis import given
from hypothesis import strategies as st

from corral.engine.measures import MEASURES, TOKEN_MEASURES
from corral.engine.tokens import Tokens, costs, reserve, settle

COUNTS = st.integers(0, 10**6)
REPORTED = st.none() | COUNTS


def test_the_prompt_is_reserved_once_and_every_answer_whole():
    assert reserve(50, 100, 3) == Tokens(50, 300)
    assert reserve(50, 0, 1) == Tokens(50, 0)


@given(COUNTS, COUNTS, REPORTED, REPORTED)
def test_what_is_not_reported_is_never_refunded(prompt, answer, read, written):
    charged = settle(Tokens(prompt, answer), read, written)
    assert charged.input == (prompt if read is None else read)
    assert charged.output == (answer if written is None else written)


def test_costs_stand_in_the_order_of_the_measures():
    told = dict(zip(MEASURES[:TOKEN_MEASURES], costs(Tokens(2, 3)), strict=True))
    assert told == {"tokens": 5, "input tokens": 2, "output tokens": 3}
