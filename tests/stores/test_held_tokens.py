"""Tokens held and settled, in virtual time: exact, all or nothing, and nothing is lost on the way."""

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.engine.decision import Admit, Deny, Hold
from corral.engine.limit import limits_from
from corral.engine.measures import FREE
from corral.engine.tokens import Tokens, costs, reserve, settle
from corral.policy.model import LimitRule, Quota
from corral.stores.memory import MemoryStore

ALGORITHMS = st.sampled_from(["gcra", "window"])


def store(*rules: tuple[int, float, str], algorithm="gcra", **more) -> MemoryStore:
    return MemoryStore(limits_from([
        LimitRule(name=f"l{i}", quota=Quota(*quota), algorithm=algorithm) for i, quota in enumerate(rules)
    ]), **more)  # fmt: skip


def total(tokens: int) -> tuple[int, int, int]:
    return tokens, tokens, 0


def remaining(limits: MemoryStore, who, now: float) -> list[int]:
    return [standing.remaining for standing in limits.peek(who, now)]


@pytest.mark.parametrize("algorithm", ["gcra", "window"])
def test_less_is_refunded_at_once_and_more_is_charged(algorithm):
    limits = store((1000, 60.0, "tokens"), algorithm=algorithm)
    who = limits.bind(("a",))
    first, second = limits.hold(who, 0.0, total(400)), limits.hold(who, 0.0, total(500))
    assert remaining(limits, who, 0.0) == [100]
    limits.settle(first, 0.0, total(100))
    assert remaining(limits, who, 0.0) == [400]
    limits.settle(second, 0.0, total(700))
    assert remaining(limits, who, 0.0) == [200]
    assert limits.held == 0


def test_what_is_held_does_not_come_back_with_time():
    limits = store((100, 1.0, "tokens"))
    who = limits.bind(("a",))
    hold = limits.hold(who, 0.0, total(100))
    assert isinstance(limits.hold(who, 1000.0, total(1)), Deny)
    limits.settle(hold, 1000.0, total(100))
    assert remaining(limits, who, 1000.0) == [0]
    assert remaining(limits, who, 1000.5) == [50]


def test_a_hold_is_ended_once():
    limits = store((100, 60.0, "tokens"))
    who = limits.bind(("a",))
    hold = limits.hold(who, 0.0, total(60))
    other = limits.hold(who, 0.0, total(40))
    limits.settle(hold, 0.0, FREE)
    limits.settle(hold, 0.0, total(60))
    assert remaining(limits, who, 0.0) == [60]
    limits.settle(other, 0.0, total(40))
    assert remaining(limits, who, 0.0) == [60]


def test_input_and_output_are_counted_apart():
    limits = store((100, 60.0, "input tokens"), (50, 60.0, "output tokens"), (1000, 60.0, "tokens"))
    who = limits.bind(("a", "a", "a"))
    hold = limits.hold(who, 0.0, costs(Tokens(90, 40)))
    assert isinstance(hold, Hold)
    assert remaining(limits, who, 0.0) == [10, 10, 870]
    assert hold.tightest.name == "l0"
    limits.settle(hold, 0.0, costs(Tokens(20, 5)))
    assert remaining(limits, who, 0.0) == [80, 45, 975]


def test_a_limit_that_a_request_costs_nothing_of_does_not_refuse_it():
    limits = store((10, 60.0, "output tokens"), (100, 60.0, "tokens"))
    who = limits.bind(("a", "a"))
    limits.settle(limits.hold(who, 0.0, (10, 0, 10)), 0.0, (15, 0, 15))
    assert isinstance(limits.hold(who, 0.0, (5, 5, 0)), Hold)


def test_a_denial_names_who_refused_what_is_left_and_holds_nothing():
    limits = store((1000, 60.0, "tokens"), (100, 60.0, "tokens"))
    alice, bob = limits.bind(("alice", "all")), limits.bind(("bob", "all"))
    limits.hold(alice, 0.0, total(80))
    denial = limits.hold(bob, 0.0, total(30))
    assert isinstance(denial, Deny)
    assert [(standing.name, standing.remaining) for standing in denial.violated] == [("l1", 20)]
    assert denial.retry_after == pytest.approx(6.0)
    assert remaining(limits, bob, 0.0) == [1000, 20]


def test_a_debt_is_paid_before_anything_is_held_again_and_is_at_most_a_quota():
    limits = store((60, 60.0, "tokens"))
    who = limits.bind(("a",))
    limits.settle(limits.hold(who, 0.0, total(60)), 0.0, total(90))
    denial = limits.hold(who, 0.0, total(1))
    assert isinstance(denial, Deny)
    assert denial.retry_after == pytest.approx(31.0)
    assert isinstance(limits.hold(who, 30.9, total(1)), Deny)
    hold = limits.hold(who, 31.0, total(1))
    limits.settle(hold, 31.0, total(10**9))
    assert isinstance(limits.hold(who, 31.0 + 60.9, total(1)), Deny)
    assert isinstance(limits.hold(who, 31.0 + 61.1, total(1)), Hold)


def test_a_debt_is_not_forgotten_when_the_table_turns():
    limits = store((60, 60.0, "tokens"))
    who, other = limits.bind(("a",)), limits.bind(("b",))
    limits.settle(limits.hold(who, 0.0, total(60)), 0.0, total(120))
    for now in range(0, 60, 5):
        limits.settle(limits.hold(other, float(now), total(1)), float(now), total(1))
    assert isinstance(limits.hold(who, 60.5, total(1)), Deny)


def test_a_window_begins_with_the_first_request():
    limits = store((100, 60.0, "tokens"), algorithm="window")
    who = limits.bind(("a",))
    hold = limits.hold(who, 0.0, total(50))
    limits.settle(hold, 40.0, total(50))
    assert remaining(limits, who, 59.0) == [50]
    assert remaining(limits, who, 60.0) == [100]


def test_a_clients_hold_is_counted_though_it_shares_a_cell_meanwhile():
    limits = store((100, 1.0, "tokens"), capacity=1)
    alice, bob = limits.bind(("alice",)), limits.bind(("bob",))
    held = limits.hold(alice, 0.0, total(100))
    for step in range(40):
        now = 1.0 + step
        hold = limits.hold(bob, now, total(100))
        assert isinstance(hold, Hold)
        assert isinstance(limits.hold(alice, now, total(1)), Deny)
        limits.settle(hold, now, total(100))
    limits.settle(held, 60.0, FREE)
    assert limits.held == 0


STEPS = st.lists(
    st.tuples(
        st.integers(0, 40), st.integers(1, 60), st.integers(0, 5), st.sampled_from(["end", "keep", "free", "over"])
    ),
    min_size=1,
    max_size=120,
)


@given(ALGORITHMS, st.integers(1, 100), STEPS)
def test_no_more_than_the_quota_is_ever_used_in_any_order_of_endings(algorithm, amount, steps):
    """Each request uses what it reserved or less; where each ends is up to hypothesis."""
    limits = store((amount, 60.0, "tokens"), algorithm=algorithm)
    who = limits.bind(("a",))
    now, running, used = 0.0, [], []
    for gap, cost, which, ending in steps:
        now += gap / 2
        hold = limits.hold(who, now, total(cost))
        if isinstance(hold, Hold):
            running.append((hold, cost))
        if which < len(running):
            ended, size = running.pop(which)
            spent = 0 if ending == "free" else size if ending == "keep" else size // 2
            limits.settle(ended, now, total(spent))
            used.append((now, spent))
    held = sum(cost for _, cost in running)
    used.append((now, held))
    for first in range(len(used)):
        spent = 0
        for last in range(first, len(used)):
            spent += used[last][1]
            span = Fraction(used[last][0]) - Fraction(used[first][0])
            if algorithm == "gcra":
                assert spent <= amount + span * amount / 60
            elif span < 60:
                assert spent <= 2 * amount


@given(ALGORITHMS, STEPS)
def test_reserved_is_used_refunded_or_held(algorithm, steps):
    """At one moment nothing comes back by itself, so every token can be found again."""
    limits = store((1000, 60.0, "tokens"), algorithm=algorithm)
    who = limits.bind(("a",))
    running, used = [], 0
    for _, cost, which, ending in steps:
        hold = limits.hold(who, 5.0, total(cost))
        if isinstance(hold, Hold):
            running.append((hold, cost))
        if which < len(running):
            ended, size = running.pop(which)
            spent = {"free": 0, "keep": size, "end": size // 2, "over": size + 1}[ending]
            limits.settle(ended, 5.0, total(spent))
            used += spent
        held = sum(cost for _, cost in running)
        assert remaining(limits, who, 5.0) == [max(0, 1000 - used - held)]


def test_ten_thousand_lives_keep_the_books():
    """Finished, cut, cancelled, crashed, unknown: reserved = used + refunded + still held, less what was overrun."""
    chance = random.Random(20260101)
    limits = store((10**9, 86_400.0, "tokens"), (10**9, 86_400.0, "output tokens"))
    who = limits.bind(("a", "a"))
    reserved = charged = refunded = overrun = 0
    running: list[tuple[Hold, Tokens]] = []

    def end(hold: Hold, asked: Tokens) -> None:
        nonlocal charged, refunded, overrun
        life = chance.choice(("finished", "cut", "cancelled", "crashed", "unknown", "overrun"))
        if life == "finished":
            spent = settle(asked, chance.randint(0, asked.input), chance.randint(0, asked.output))
        elif life == "cut":
            spent = settle(asked, chance.randint(0, asked.input), None)
        elif life == "cancelled":
            spent = Tokens(0, 0)
        elif life == "overrun":
            spent = settle(asked, asked.input + chance.randint(1, 50), asked.output)
        else:
            spent = settle(asked, None, None)
        limits.settle(hold, 7.0, costs(spent))
        charged += sum(spent)
        refunded += sum(max(0, held - used) for held, used in zip(asked, spent, strict=True))
        overrun += sum(max(0, used - held) for held, used in zip(asked, spent, strict=True))

    for _ in range(10_000):
        asked = reserve(chance.randint(1, 500), chance.choice((0, 16, 256)), chance.randint(1, 3))
        hold = limits.hold(who, 7.0, costs(asked))
        assert isinstance(hold, Hold)
        reserved += sum(asked)
        running.append((hold, asked))
        while len(running) > 8:
            end(*running.pop(chance.randrange(len(running))))
    held = sum(sum(asked) for _, asked in running)
    assert remaining(limits, who, 7.0)[0] == 10**9 - charged - held
    assert reserved + overrun == charged + refunded + held
    for hold, asked in running:
        end(hold, asked)
    assert limits.held == 0
    assert remaining(limits, who, 7.0)[0] == 10**9 - charged
    assert reserved + overrun == charged + refunded


@given(st.lists(st.integers(1, 60), max_size=40))
def test_a_request_refused_for_its_tokens_burns_no_request(sizes):
    limits = store((10, 3600.0, "requests"), (100, 3600.0, "tokens"))
    requests, tokens = limits.bind(("a", None)), limits.bind((None, "a"))
    served = 0
    for size in sizes:
        admitted = limits.take(requests, 5.0)
        if isinstance(admitted, Admit):
            if isinstance(limits.hold(tokens, 5.0, total(size)), Deny):
                limits.give_back(admitted.reservation, 5.0)
            else:
                served += 1
    assert remaining(limits, requests, 5.0) == [10 - served]
