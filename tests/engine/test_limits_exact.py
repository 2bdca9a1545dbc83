"""The limit algorithms, in virtual time: exact to the unit, whatever arrives when."""

from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corral.engine.algorithm import SECOND
from corral.engine.decision import Admit, Reservation
from corral.engine.gcra import Gcra
from corral.engine.limit import Limit, limits_from
from corral.engine.window import Window
from corral.policy.model import LimitRule, Quota
from corral.stores.memory import MemoryStore

WINDOWS = st.sampled_from([1.0, 60.0, 3600.0, 0.5, 7.0, 86400.0])
GAPS = st.lists(st.integers(0, 40 * SECOND), min_size=1, max_size=80)


def admitted_at(algorithm, gaps, cost=1):
    """Let requests arrive `gaps` nanoseconds apart; list when one was admitted."""
    now, state, times = 12345 * SECOND, None, []
    for gap in gaps:
        now += gap
        after, _, _ = algorithm.ask(state, now, cost)
        if after is not None:
            state = after
            times.append(now)
    return times


@given(st.integers(1, 50), WINDOWS, st.integers(1, 20), GAPS)
def test_gcra_never_admits_more_than_burst_and_rate_in_any_interval(amount, window, burst, gaps):
    times = admitted_at(Gcra(amount, window, burst), gaps)
    rate = Fraction(amount, round(window * SECOND))
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + (times[last] - times[first]) * rate


@given(st.integers(1, 50), WINDOWS, GAPS)
def test_a_window_never_admits_more_than_its_amount(amount, window, gaps):
    times = admitted_at(Window(amount, window), gaps)
    length = round(window * SECOND)
    start = None
    for time in times:
        if start is None or time >= start + length:
            start, used = time, 0
        used += 1
        assert used <= amount


@given(st.integers(1, 3000), st.floats(0.01, 10**6))
def test_exactly_the_amount_is_admitted_at_once(amount, window):
    for algorithm in (Gcra(amount, window), Window(amount, window)):
        assert len(admitted_at(algorithm, [0] * (amount + 3))) == amount


@pytest.mark.parametrize("pace", [0.001, 0.5, 1.0, 1.9])
def test_the_thirty_first_request_of_a_minute_is_refused_by_a_window_at_any_pace(pace):
    window = Window(30, 60.0)
    state, now, refused = None, 0, []
    for number in range(31):
        after, _, wait = window.ask(state, now, 1)
        if after is None:
            refused.append((number, wait))
        else:
            state = after
        now += round(pace * SECOND)
    assert [number for number, _ in refused] == [30]
    assert refused[0][1] == 60 * SECOND - 30 * round(pace * SECOND)


@given(st.sampled_from([Gcra(7, 60.0), Gcra(30, 60.0, 3), Window(7, 60.0)]), GAPS)
def test_remaining_and_wait_are_true(algorithm, gaps):
    now, state = 999 * SECOND, None
    for gap in gaps:
        now += gap
        after, remaining, wait = algorithm.ask(state, now, 1)
        if after is None:
            assert wait > 0
            assert algorithm.ask(state, now + wait, 1)[0] is not None
            assert algorithm.ask(state, now + wait - 1, 1)[0] is None
            continue
        state = after
        probe = state
        for _ in range(remaining):
            probe = algorithm.ask(probe, now, 1)[0]
            assert probe is not None
        assert algorithm.ask(probe, now, 1)[0] is None
        assert algorithm.is_live(state, now)
        assert not algorithm.is_live(state, now + algorithm.horizon)


@given(st.sampled_from([Gcra(5, 60.0), Gcra(20, 10.0, 4), Window(5, 60.0)]), st.lists(
    st.tuples(st.integers(0, 30 * SECOND), st.integers(0, 2), st.booleans()), min_size=1, max_size=60))  # fmt: skip
def test_what_is_given_back_never_buys_more_than_the_quota(algorithm, steps):
    """Requests that were kept stay within what the algorithm admits without those that were given back."""
    now, state, open_charges, kept = 77 * SECOND, None, [], []
    for gap, back, keep in steps:
        now += gap
        after, _, _ = algorithm.ask(state, now, 1)
        if after is not None:
            state = after
            if keep:
                kept.append(now)
            else:
                open_charges.append(after)
        for _ in range(min(back, len(open_charges))):
            charged = open_charges.pop(0)
            if state is not None:
                state = algorithm.give_back(state, charged, now, 1)
    if isinstance(algorithm, Gcra):
        rate = Fraction(algorithm.amount, round(algorithm.window * SECOND))
        for first in range(len(kept)):
            for last in range(first, len(kept)):
                assert last - first + 1 <= algorithm.burst + (kept[last] - kept[first]) * rate
    else:
        assert all(sum(t <= s < t + 60 * SECOND for s in kept) <= 2 * algorithm.amount for t in kept)


def test_giving_back_restores_the_quota_at_once():
    for algorithm in (Gcra(3, 60.0), Window(3, 60.0)):
        state, charged = None, []
        for _ in range(3):
            state = algorithm.ask(state, 0, 1)[0]
            charged.append(state)
        assert algorithm.ask(state, 0, 1)[0] is None
        state = algorithm.give_back(state, charged[-1], 0, 1)
        assert algorithm.ask(state, 0, 1)[0] is not None


def test_giving_back_everything_is_as_if_nothing_had_been():
    for algorithm in (Gcra(3, 60.0), Window(3, 60.0)):
        state = algorithm.ask(None, 0, 2)[0]
        assert algorithm.give_back(state, state, 0, 2) is None


def test_giving_back_after_the_window_changes_nothing():
    window = Window(3, 60.0)
    old = window.ask(None, 0, 1)[0]
    new = window.ask(old, 61 * SECOND, 1)[0]
    assert window.give_back(new, old, 61 * SECOND, 1) == new


def test_a_cost_above_the_quota_is_never_admitted():
    assert Gcra(3, 60.0).ask(None, 0, 4)[0] is None
    assert Window(3, 60.0).ask(None, 0, 4)[0] is None


def test_limits_are_built_from_rules():
    rules = [
        LimitRule(name="a", quota=Quota(5, 1.0), burst=2),
        LimitRule(name="b", quota=Quota(5, 1.0), algorithm="window"),
    ]
    first, second = limits_from(rules)
    assert (first.name, second.name) == ("a", "b")
    assert isinstance(first.algorithm, Gcra)
    assert isinstance(second.algorithm, Window)


@settings(max_examples=400, deadline=None)
@given(
    burst=st.integers(1, 6),
    steps=st.lists(st.tuples(st.integers(0, 700), st.booleans(), st.integers(0, 5)), max_size=60),
)
@example(
    burst=2,
    steps=[
        (0, False, 0),
        (0, False, 0),
        (500, True, 0),
        (1000, False, 0),
        (0, False, 0),
        (0, True, 0),
        (500, False, 0),
    ],
)
def test_whatever_is_given_back_the_kept_requests_keep_to_the_limit(burst, steps):
    """Refunds in any order: those that were not refunded never exceed the burst and what came back since."""
    interval = 1000
    limits = MemoryStore([Limit("x", Gcra(1, interval / 1000, burst))])
    who = limits.bind(("a",))
    now = 1_000_000
    kept: list[tuple[int, Reservation]] = []
    for wait, refund, which in steps:
        now += wait
        if refund and kept:
            limits.give_back(kept.pop(which % len(kept))[1], now / 1000)
        else:
            decision = limits.take(who, now / 1000)
            if isinstance(decision, Admit):
                kept.append((now, decision.reservation))
    times = [at for at, _ in kept]
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            assert (last - first + 1 - burst) * interval <= times[last] - start + 1
