"""Limits in shadow: those in force decide as if they were alone, and each in shadow counts as if it were in force."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from corral.engine.decision import Admit, Deny, Hold
from corral.engine.limit import limits_from
from corral.engine.measures import COMPUTE, CONCURRENT, FREE, MONEY
from corral.policy.model import LimitRule, Quota
from corral.policy.notation import parse_quota
from corral.stores.memory import MemoryStore


def rule(name: str, amount: int, algorithm="gcra", *, shadow: bool = False) -> LimitRule:
    return LimitRule(name=name, quota=Quota(amount, 60.0), algorithm=algorithm, shadow=shadow)


def store(*rules: LimitRule) -> MemoryStore:
    return MemoryStore(limits_from(rules))


ALGORITHMS = st.sampled_from(["gcra", "window"])
STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 400), st.sampled_from(["keep", "give-back", "give-back-later"])),
    max_size=120,
)  # fmt: skip


@given(st.integers(1, 6), st.integers(1, 6), ALGORITHMS, STEPS)
def test_what_is_in_shadow_changes_nothing_for_what_is_in_force(enforced, shadowed, algorithm, steps):
    alone = store(rule("force", enforced, algorithm))
    beside = store(rule("before", shadowed, shadow=True), rule("force", enforced, algorithm),
                   rule("behind", shadowed, "window", shadow=True))  # fmt: skip
    now, later = 0.0, []
    for who, gap, ending in steps:
        now += gap / 10
        one, other = alone.bind((f"c{who}",)), beside.bind((f"c{who}", f"c{who}", "all"))
        expected, found = alone.take(one, now), beside.take(other, now)
        if isinstance(expected, Deny):
            assert found == expected
            continue
        assert isinstance(found, Admit)
        assert found.tightest == expected.tightest
        taken = (expected.reservation, found.reservation)
        if ending == "give-back-later":
            later.append(taken)
        elif ending == "give-back":
            for first, second in (taken, *later):
                alone.give_back(first, now)
                beside.give_back(second, now)
            later.clear()
        assert beside.peek(other, now)[1] == alone.peek(one, now)[0]


@given(st.integers(1, 6), ALGORITHMS, STEPS)
def test_a_limit_in_shadow_counts_and_refuses_as_if_it_were_in_force(amount, algorithm, steps):
    tried, forced = store(rule("l", amount, algorithm, shadow=True)), store(rule("l", amount, algorithm))
    now, later = 0.0, []
    for who, gap, ending in steps:
        now += gap / 10
        one, other = tried.bind((f"c{who}",)), forced.bind((f"c{who}",))
        found, expected = tried.take(one, now), forced.take(other, now)
        assert isinstance(found, Admit)
        assert found.tightest is None
        if isinstance(expected, Deny):
            assert found.shadowed == expected.violated
            assert found.reservation.charges == ()
            tried.give_back(found.reservation, now)
        else:
            assert found.shadowed == ()
            taken = (found.reservation, expected.reservation)
            if ending == "give-back-later":
                later.append(taken)
            elif ending == "give-back":
                for first, second in (taken, *later):
                    tried.give_back(first, now)
                    forced.give_back(second, now)
                later.clear()
        assert tried.peek(one, now) == forced.peek(other, now)


def test_who_is_refused_in_force_is_not_charged_in_shadow_either():
    limits = store(rule("force", 1), rule("tried", 5, shadow=True))
    who = limits.bind(("a", "a"))
    limits.take(who, 0.0)
    for _ in range(10):
        denial = limits.take(who, 0.0)
        assert isinstance(denial, Deny)
        assert [standing.name for standing in denial.violated] == ["force"]
    assert limits.peek(who, 0.0)[1].remaining == 4


UNITS = ("1000 tokens/minute", "3 concurrent requests", "10 gpu-seconds/minute", "0.002 cost/minute")
HOLDS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 700), st.sampled_from(["free", "less", "over", "runs"])), max_size=80
)


def costs(size: int, places: int = 1) -> tuple[int, ...]:
    made = list(FREE)
    made[0], made[1], made[2] = size, size // 2, size - size // 2
    made[CONCURRENT], made[COMPUTE], made[MONEY] = places, size * 9, size * 2
    return tuple(made)


@given(st.sampled_from(UNITS), st.sampled_from(UNITS), HOLDS)
def test_holds_in_shadow_are_held_and_settled_exactly_and_change_nothing_in_force(enforced, tried, steps):
    force = LimitRule(name="force", quota=parse_quota(enforced))
    shadow = LimitRule(name="tried", quota=parse_quota(tried), shadow=True)
    both, alone, tested = store(force, shadow), store(force), store(replace(shadow, shadow=False))
    running: list[tuple[Hold, Hold, Hold | None, int]] = []
    now = 0.0

    def end(number: int, ending: str) -> None:
        for limits, hold in zip((both, alone, tested), running[number][:3], strict=True):
            size = running[number][3]
            used = {"free": FREE, "less": costs(size // 3, 0), "over": costs(size * 2, 0)}[ending]
            if hold is not None:
                limits.settle(hold, now, used)
                limits.settle(hold, now, costs(size))
        del running[number]

    for who, size, ending in steps:
        now += 0.5
        name = f"c{who}"
        expected = alone.hold(alone.bind((name,)), now, costs(size))
        found = both.hold(both.bind((name, name)), now, costs(size))
        if isinstance(expected, Deny):
            assert found == expected
        else:
            assert isinstance(found, Hold)
            assert (found.tightest, found.other) == (expected.tightest, expected.other)
            asked = tested.hold(tested.bind((name,)), now, costs(size))
            assert found.shadowed == (asked.violated if isinstance(asked, Deny) else ())
            running.append((found, expected, asked if isinstance(asked, Hold) else None, size))
        if running and ending != "runs":
            end(0, ending)
        assert both.peek(both.bind((name, None)), now) == alone.peek(alone.bind((name,)), now)
        assert both.peek(both.bind((None, name)), now) == tested.peek(tested.bind((name,)), now)
    while running:
        end(0, "free")
    assert (both.held, alone.held, tested.held) == (0, 0, 0)


def test_a_limit_in_shadow_holds_what_it_would_if_it_were_in_force():
    limits = store(LimitRule(name="force", quota=parse_quota("1000 tokens/minute")),
                   LimitRule(name="tried", quota=parse_quota("300 tokens/minute"), shadow=True))  # fmt: skip
    who = limits.bind(("a", "a"))
    hold = limits.hold(who, 0.0, costs(500), costs(200))
    assert isinstance(hold, Hold)
    assert hold.shadowed == ()
    assert [standing.remaining for standing in limits.peek(who, 0.0)] == [500, 100]
    limits.settle(hold, 0.0, costs(50))
    assert [standing.remaining for standing in limits.peek(who, 0.0)] == [950, 250]
