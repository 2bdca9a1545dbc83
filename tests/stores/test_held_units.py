"""What runs at once, computing time and money, held and settled in virtual time: exact, all or nothing, bounded."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from corral.engine.decision import Deny, Hold
from corral.engine.limit import limits_from
from corral.engine.measures import COMPUTE, CONCURRENT, FREE, MONEY
from corral.policy.model import LimitRule
from corral.policy.notation import parse_quota
from corral.stores.memory import MemoryStore

NOON = datetime(2026, 5, 5, 12, tzinfo=UTC).timestamp()


def store(*quotas: str, **more) -> MemoryStore:
    rules = [LimitRule(name=f"l{index}", quota=parse_quota(quota)) for index, quota in enumerate(quotas)]
    return MemoryStore(limits_from(rules), **more)


def wanted(**costs: int) -> tuple[int, ...]:
    places = {"at_once": CONCURRENT, "compute": COMPUTE, "money": MONEY}
    made = [0] * len(FREE)
    for name, cost in costs.items():
        made[places[name]] = cost
    return tuple(made)


def left(limits: MemoryStore, who, now: float) -> list[int]:
    return [standing.remaining for standing in limits.peek(who, now)]


ENDINGS = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 5)), max_size=200)


@given(st.integers(1, 6), ENDINGS)
def test_no_more_run_at_once_than_may_and_every_place_comes_back_once(most, steps):
    limits = store(f"{most} concurrent requests")
    clients = [limits.bind((name,)) for name in "abcd"]
    running: dict[int, list[Hold]] = {0: [], 1: [], 2: [], 3: []}
    now = 0.0
    for which, begins, ends in steps:
        now += 0.25
        if begins:
            outcome = limits.hold(clients[which], now, wanted(at_once=1))
            assert isinstance(outcome, Hold) == (len(running[which]) < most)
            if isinstance(outcome, Hold):
                running[which].append(outcome)
        elif ends < len(running[which]):
            ended = running[which].pop(ends)
            limits.settle(ended, now, wanted(at_once=1) if ends % 2 else FREE)
            limits.settle(ended, now, FREE)
        assert left(limits, clients[which], now) == [most - len(running[which])]
    for holds in running.values():
        for hold in holds:
            limits.settle(hold, now, FREE)
    assert limits.held == 0
    assert len(limits) == 0


def test_whoever_runs_nothing_leaves_nothing_behind():
    limits = store("2 concurrent requests", capacity=4)
    for number in range(1000):
        who = limits.bind((f"c{number}",))
        limits.settle(limits.hold(who, float(number), wanted(at_once=1)), float(number), FREE)
    assert (len(limits), limits.held, limits.overflowed) == (0, 0, 0)


def test_a_denial_of_places_tells_no_time_and_holds_nothing_of_other_limits():
    limits = store("1 concurrent requests", "100 cost/hour")
    who = limits.bind(("a", "a"))
    first = limits.hold(who, 0.0, wanted(at_once=1, money=10))
    denial = limits.hold(who, 0.0, wanted(at_once=1, money=10))
    assert isinstance(denial, Deny)
    assert [(standing.name, standing.window, standing.reset) for standing in denial.violated] == [("l0", 0.0, 0.0)]
    assert left(limits, who, 0.0) == [0, 100_000_000 - 10]
    limits.settle(first, 0.0, wanted(money=4))
    assert left(limits, who, 0.0) == [1, 100_000_000 - 4]


def test_computing_time_is_counted_in_milliseconds_and_comes_back_evenly():
    limits = store("10 gpu-seconds per 10 seconds")
    who = limits.bind(("a",))
    hold = limits.hold(who, 0.0, wanted(compute=9000))
    assert isinstance(limits.hold(who, 0.0, wanted(compute=1001)), Deny)
    limits.settle(hold, 0.0, wanted(compute=2500))
    assert left(limits, who, 0.0) == [7500]
    assert left(limits, who, 1.0) == [8500]


def test_a_limit_of_another_kind_is_told_beside_that_of_tokens():
    limits = store("1000 tokens/hour", "4 concurrent requests", "100 cost/day")
    who = limits.bind(("a", "a", "a"))
    hold = limits.hold(who, 0.0, (100, 60, 40, 1, 0, 90_000_000))
    assert (hold.tightest.name, hold.other.name, hold.other.remaining) == ("l0", "l2", 10_000_000)


@given(st.lists(st.tuples(st.integers(1, 300), st.sampled_from(["free", "less", "all", "over"])), max_size=80))
def test_money_is_used_refunded_or_held_to_the_millionth(steps):
    limits = store("0.001 cost/day", "0.002 cost/month")
    limits.follow_wall(NOON)
    who = limits.bind(("a", "all"))
    running, used = [], 0
    for cost, ending in steps:
        outcome = limits.hold(who, 1.0, wanted(money=cost))
        assert isinstance(outcome, Hold) == (used + sum(size for _, size in running) + cost <= 1000)
        if isinstance(outcome, Hold):
            running.append((outcome, cost))
        if running and ending != "all":
            ended, size = running.pop(0)
            spent = {"free": 0, "less": size // 3, "over": size + 7}[ending]
            limits.settle(ended, 1.0, wanted(money=spent))
            used += spent
        held = sum(size for _, size in running)
        assert left(limits, who, 1.0) == [max(0, 1000 - used - held), max(0, 2000 - used - held)]


def test_what_was_spent_of_a_calendars_budget_outlives_the_store():
    def fresh() -> MemoryStore:
        made = store("10 cost/day", "50 cost/month", "5 cost/hour")
        made.follow_wall(NOON - 100.0)
        return made

    before = fresh()
    who = before.bind(("everyone", ("key", "alice"), "everyone"))
    before.settle(before.hold(who, 100.0, wanted(money=3_000_000)), 100.0, wanted(money=2_500_000))
    running = before.hold(who, 101.0, wanted(money=1_000_000))
    told = before.changes(101.0)
    assert sorted((spent.limit, spent.key, spent.used) for spent in told) == [
        ("l0", "everyone", 3_500_000), ("l1", ("key", "alice"), 3_500_000),
    ]  # fmt: skip
    assert before.changes(101.0) == []
    before.settle(running, 102.0, FREE)
    told = before.changes(102.0)
    after = fresh()
    after.restore(told, 100.0)
    after.restore(told, 100.0)
    assert left(after, after.bind(("everyone", ("key", "alice"), "everyone")), 100.0) == [
        7_500_000,
        47_500_000,
        5_000_000,
    ]
    after.follow_wall(NOON - 100.0 + 86_400)
    assert left(after, after.bind(("everyone", ("key", "alice"), None)), 100.0) == [10_000_000, 47_500_000]


def test_what_is_restored_survives_a_long_uptime():
    limits = store("10 cost/day")
    uptime = 90 * 86_400.0
    limits.follow_wall(NOON - uptime)
    other = store("10 cost/day")
    other.follow_wall(NOON - uptime)
    who = other.bind(("everyone",))
    other.settle(other.hold(who, uptime, wanted(money=10_000_000)), uptime, wanted(money=10_000_000))
    limits.restore(other.changes(uptime), uptime)
    assert isinstance(limits.hold(limits.bind(("everyone",)), uptime, wanted(money=1)), Deny)


def test_budgets_of_days_are_none_of_months_and_of_limits_that_are_gone_nothing():
    days, months, others = store("10 cost/day"), store("10 cost/month"), MemoryStore(limits_from([]))
    for limits in (days, months, others):
        limits.follow_wall(NOON)
    who = months.bind(("everyone",))
    months.settle(months.hold(who, 0.0, wanted(money=10_000_000)), 0.0, wanted(money=10_000_000))
    told = months.changes(0.0)
    days.restore(told, 0.0)
    others.restore(told, 0.0)
    assert left(days, days.bind(("everyone",)), 0.0) == [10_000_000]
