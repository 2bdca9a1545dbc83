"""Budgets by the calendar, in virtual time: days and months in UTC, whatever the engine's own clock says."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.engine.algorithm import SECOND
from corral.engine.calendar import Calendar

DAY = 86_400 * SECOND


def at(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp()) * SECOND


def spend(calendar: Calendar, state: int | None, now: int, cost: int) -> int | None:
    fits, _, _ = calendar.weigh(state, now, 0, cost)
    return calendar.charge(state, now, cost) if fits else state


@pytest.mark.parametrize(
    ("period", "last", "first"),
    [
        ("day", (2026, 2, 28, 23, 59, 59), (2026, 3, 1)),
        ("month", (2026, 2, 28, 23, 59, 59), (2026, 3, 1)),
        ("month", (2028, 2, 29, 23, 59, 59), (2028, 3, 1)),
        ("month", (2026, 12, 31, 23, 59, 59), (2027, 1, 1)),
        ("month", (2026, 1, 31, 23, 59, 59), (2026, 2, 1)),
    ],
)
def test_a_budget_begins_anew_with_the_calendar(period, last, first):
    calendar = Calendar(100, period)
    state = calendar.charge(None, at(*last), 100)
    assert calendar.weigh(state, at(*last), 0, 1) == (False, 0, SECOND)
    assert calendar.weigh(state, at(*first) - 1, 0, 1)[0] is False
    assert calendar.weigh(state, at(*first), 0, 100)[0] is True
    assert not calendar.is_live(state, at(*first))


def test_the_offset_tells_the_calendar_from_any_clock():
    calendar = Calendar(100, "day")
    calendar.offset = at(2026, 5, 5, 12) - 7 * SECOND
    state = calendar.charge(None, 7 * SECOND, 60)
    assert calendar.weigh(state, 7 * SECOND, 0, 41) == (False, 40, DAY // 2)
    assert calendar.weigh(state, 7 * SECOND + DAY // 2, 0, 100)[0] is True


def test_a_clock_that_is_put_back_over_midnight_forgives_nothing():
    calendar = Calendar(100, "day")
    state = calendar.charge(None, at(2026, 5, 6) + SECOND, 70)
    calendar.offset = -60 * SECOND
    assert calendar.weigh(state, at(2026, 5, 6) + SECOND, 0, 31)[0] is False


@given(st.integers(at(1971, 1, 1) // SECOND, at(2199, 12, 31) // SECOND), st.sampled_from(["day", "month"]))
def test_every_moment_is_in_the_period_that_the_calendar_says(moment, period):
    now = moment * SECOND
    calendar = Calendar(10, period)
    _, _, wait = calendar.weigh(None, now, 0, 1)
    begins = datetime.fromtimestamp((now + wait) // SECOND, UTC)
    assert (begins.hour, begins.minute, begins.second) == (0, 0, 0)
    assert period == "day" or begins.day == 1
    assert 0 < wait <= calendar.window * SECOND
    state = calendar.charge(None, now, 10)
    assert calendar.weigh(state, now + wait - 1, 0, 1)[0] is False
    assert calendar.weigh(state, now + wait, 0, 1)[0] is True


@given(st.integers(1, 1000), st.lists(st.tuples(st.integers(0, DAY), st.integers(1, 400)), max_size=60))
def test_no_more_than_the_budget_is_spent_in_any_day(amount, steps):
    calendar, state, now = Calendar(amount, "day"), None, at(2026, 1, 1)
    spent: dict[int, int] = {}
    for gap, cost in steps:
        now += gap
        before = calendar.used(state, now)
        state = spend(calendar, state, now, cost)
        spent[now // DAY] = spent.get(now // DAY, 0) + calendar.used(state, now) - before
    assert all(total <= amount for total in spent.values())


def test_a_charge_is_given_back_within_its_period_only():
    calendar = Calendar(10, "day")
    now = at(2026, 1, 1)
    state, remaining, _ = calendar.ask(None, now, 4)
    assert remaining == 6
    assert calendar.ask(state, now, 7)[0] is None
    assert calendar.give_back(state, state, now, 4) is None
    assert calendar.give_back(state, state, now + DAY, 4) == state
