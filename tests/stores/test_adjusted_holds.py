"""Holds that grow and shrink while their requests run: exact to the unit, in one step, and nothing is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.engine.decision import Deny, Hold
from corral.engine.limit import limits_from
from corral.engine.measures import FREE
from corral.policy.model import LimitRule, Quota
from corral.policy.notation import parse_quota
from corral.stores.memory import MemoryStore


def store(*quotas: str, algorithm="gcra", **more) -> MemoryStore:
    rules = [LimitRule(name=f"l{i}", quota=parse_quota(text), algorithm=algorithm) for i, text in enumerate(quotas)]
    return MemoryStore(limits_from(rules), **more)


def use(read: int, written: int = 0) -> tuple[int, ...]:
    return (read + written, read, written, 1, 0, read)


def left(limits: MemoryStore, who, now: float = 0.0) -> list[int]:
    return [standing.remaining for standing in limits.peek(who, now)]


@pytest.mark.parametrize("algorithm", ["gcra", "window"])
def test_a_hold_grows_while_there_is_room_and_shrinks_always(algorithm):
    limits = store("1000 tokens/hour", "500 input tokens/hour", algorithm=algorithm)
    who = limits.bind(("a", "a"))
    hold = limits.hold(who, 0.0, use(1, 100))
    assert limits.adjust(hold, 0.0, use(500, 100)) is None
    assert left(limits, who) == [400, 0]
    assert (hold.tightest.name, hold.tightest.remaining) == ("l1", 0)
    assert limits.adjust(hold, 0.0, use(40, 100)) is None
    assert left(limits, who) == [860, 460]
    limits.settle(hold, 0.0, use(40, 7))
    assert (left(limits, who), limits.held) == ([953, 460], 0)


def test_a_hold_that_cannot_grow_in_one_limit_grows_in_none():
    limits = store("1000 tokens/hour", "500 input tokens/hour", "2 concurrent requests")
    who = limits.bind(("a", "a", "a"))
    other = limits.hold(who, 0.0, use(300))
    hold = limits.hold(who, 0.0, use(1, 10))
    denial = limits.adjust(hold, 0.0, use(201, 10))
    assert isinstance(denial, Deny)
    # What is left is told without what the request itself holds: it is refused, and lets that go.
    assert [(standing.name, standing.remaining) for standing in denial.violated] == [("l1", 200)]
    assert left(limits, who) == [1000 - 300 - 11, 500 - 301, 0]
    limits.settle(hold, 0.0, FREE)
    limits.settle(other, 0.0, FREE)
    assert left(limits, who) == [1000, 500, 2]


def test_a_hold_shrinks_though_its_client_has_fallen_into_debt():
    limits = store("100 tokens/hour")
    who = limits.bind(("a",))
    hold, other = limits.hold(who, 0.0, use(60)), limits.hold(who, 0.0, use(20))
    limits.settle(other, 0.0, use(150))
    assert limits.adjust(hold, 0.0, use(30)) is None
    assert hold.tightest.remaining == 0
    assert isinstance(limits.adjust(hold, 0.0, use(31)), Deny)


def test_a_limit_in_shadow_is_told_and_refuses_no_growth():
    rules = (
        LimitRule(name="tried", quota=Quota(100, 60.0, "tokens"), shadow=True),
        LimitRule(name="meant", quota=Quota(1000, 60.0, "tokens")),
    )
    limits = MemoryStore(limits_from(rules))
    who = limits.bind(("a", "a"))
    hold = limits.hold(who, 0.0, use(10))
    assert limits.adjust(hold, 0.0, use(90)) is None
    assert (left(limits, who), hold.shadowed, hold.tightest.name) == ([10, 910], (), "meant")
    assert limits.adjust(hold, 0.0, use(101)) is None
    assert (left(limits, who), [standing.name for standing in hold.shadowed]) == ([100, 899], ["tried"])
    assert isinstance(limits.adjust(hold, 0.0, use(1001)), Deny)
    limits.settle(hold, 0.0, use(50))
    assert (left(limits, who), limits.held) == ([100, 950], 0)


def test_a_hold_never_shrinks_to_nothing_so_that_its_use_is_charged():
    limits = store("100 tokens/hour")
    who = limits.bind(("a",))
    hold = limits.hold(who, 0.0, use(10))
    assert limits.adjust(hold, 0.0, FREE) is None
    assert left(limits, who) == [99]
    limits.settle(hold, 0.0, use(10))
    assert (left(limits, who), limits.held) == ([90], 0)


def test_a_hold_that_has_ended_is_not_adjusted():
    limits = store("100 tokens/hour")
    who = limits.bind(("a",))
    hold = limits.hold(who, 0.0, use(10))
    limits.settle(hold, 0.0, FREE)
    assert limits.adjust(hold, 0.0, use(50)) is None
    assert (left(limits, who), limits.held) == ([100], 0)


def test_a_client_that_shares_its_cell_lets_everything_go_again():
    limits = store("1000 tokens/hour", capacity=1)
    first, second = limits.bind(("a",)), limits.bind(("b",))
    limits.settle(limits.hold(first, 0.0, use(10)), 0.0, use(10))
    hold = limits.hold(second, 0.0, use(5))
    assert limits.adjust(hold, 0.0, use(700)) is None
    assert isinstance(limits.adjust(hold, 0.0, use(1001)), Deny)
    limits.settle(hold, 0.0, use(600))
    assert limits.held == 0


STEPS = st.lists(
    st.tuples(st.sampled_from(["hold", "adjust", "settle", "wait"]), st.integers(0, 3), st.integers(1, 400)),
    max_size=120,
)


@pytest.mark.parametrize("algorithm", ["gcra", "window"])
@given(steps=STEPS)
def test_no_unit_is_lost_or_made_however_holds_are_adjusted(algorithm, steps):
    """A model of two limits that count by hand: what fits is admitted, and nothing else; all comes back once."""
    most = (1000, 700)
    limits = MemoryStore(limits_from([
        LimitRule(name="all", quota=Quota(most[0], 1e6, "tokens"), algorithm=algorithm),
        LimitRule(name="read", quota=Quota(most[1], 1e6, "input tokens"), algorithm=algorithm),
    ]))  # fmt: skip
    who = limits.bind(("a", "a"))
    running: list[tuple[Hold, int, int]] = []
    used = [0, 0]

    def room(without: int = -1) -> tuple[int, int]:
        beside = [(read + written, read) for place, (_, read, written) in enumerate(running) if place != without]
        return tuple(most[i] - used[i] - sum(held[i] for held in beside) for i in (0, 1))

    for what, which, size in steps:
        if what == "hold":
            outcome = limits.hold(who, 0.0, use(1, size))
            assert isinstance(outcome, Hold) == (1 + size <= room()[0] and room()[1] >= 1)
            if isinstance(outcome, Hold):
                running.append((outcome, 1, size))
        elif which < len(running):
            hold, read, written = running[which]
            if what == "adjust":
                free = room(without=which)
                fits = size <= read or (size + written <= free[0] and size <= free[1])
                assert (limits.adjust(hold, 0.0, use(size, written)) is None) == fits
                if fits:
                    running[which] = (hold, size, written)
            elif what == "settle":
                del running[which]
                limits.settle(hold, 0.0, use(read, written // 2))
                used = [used[0] + read + written // 2, used[1] + read]
        assert left(limits, who) == [max(0, free) for free in room()]
    for hold, _, _ in running:
        limits.settle(hold, 0.0, FREE)
    assert limits.held == 0
    assert left(limits, who) == [most[i] - used[i] for i in (0, 1)]
