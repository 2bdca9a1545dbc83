"""A store that goes on with another's counts: what was used stays used, and what is open ends where it counts now."""

from hypothesis import given, settings
from hypothesis import strategies as st

from corral.engine.decision import Admit, Deny, Hold
from corral.engine.limit import limits_from
from corral.policy.model import LimitRule, Quota
from corral.stores.memory import MemoryStore
from corral.stores.succession import Succeeded


def rule(amount=30, window=60.0, *, name="client", per="client", algorithm="gcra", unit="requests", burst=None):
    return LimitRule(name=name, quota=Quota(amount, window, unit), per=per, algorithm=algorithm, burst=burst)


def store(*rules: LimitRule, **more) -> MemoryStore:
    return MemoryStore(limits_from(rules), **more)


def take(limits, key, now, times):
    return [limits.take(limits.bind((key,)), now) for _ in range(times)]


def remaining(limits, key, now) -> int:
    return limits.peek(limits.bind((key,)), now)[0].remaining


@settings(deadline=None)
@given(
    st.sampled_from(["gcra", "window"]), st.integers(1, 60), st.integers(1, 90), st.integers(0, 60),
    st.floats(0, 1e6), st.floats(0, 59),
)  # fmt: skip
def test_what_was_used_stays_used_whatever_the_amount_becomes(algorithm, before, after, used, start, later):
    old = store(rule(before, algorithm=algorithm))
    used = sum(isinstance(taken, Admit) for taken in take(old, "a", start, used))
    new = store(rule(after, algorithm=algorithm))
    new.adopt(old, start)
    assert remaining(new, "a", start) == max(0, after - used)
    fresh = store(rule(after, algorithm=algorithm))
    for _ in range(min(used, after)):
        fresh.take(fresh.bind(("a",)), start)
    # From then on it stands as if it had been used here: not an instant longer or shorter.
    assert new.peek(new.bind(("a",)), start + later) == fresh.peek(fresh.bind(("a",)), start + later)


def test_twenty_of_thirty_a_minute_leave_twenty_of_forty():
    old = store(rule(30))
    take(old, "a", 100.0, 20)
    new = store(rule(40))
    new.adopt(old, 100.0)
    assert sum(isinstance(taken, Admit) for taken in take(new, "a", 100.0, 40)) == 20


def test_a_lowered_limit_denies_no_longer_than_it_would_have_itself():
    old = store(rule(30))
    take(old, "a", 0.0, 30)
    new = store(rule(10))
    new.adopt(old, 0.0)
    (denied,) = take(new, "a", 0.0, 1)
    assert isinstance(denied, Deny)
    assert denied.retry_after == 6.0


def test_a_limit_that_means_something_else_begins_anew():
    for other in (
        rule(name="other"), rule(per="address"), rule(window=61.0), rule(algorithm="window"), rule(unit="tokens"),
    ):  # fmt: skip
        old = store(rule())
        take(old, "a", 0.0, 30)
        new = store(other)
        assert [move.place for move in new.adopt(old, 0.0)] == [-1]
        assert remaining(new, "a", 0.0) == 30


def test_limits_go_on_wherever_they_stand_now():
    old = store(rule(5, name="one"), rule(7, name="two", per="everyone"))
    old.take(old.bind(("a", "everyone")), 0.0)
    new = store(rule(9, name="new"), rule(7, name="two", per="everyone"), rule(6, name="one"))
    assert [move.place for move in new.adopt(old, 0.0)] == [2, 1]
    standings = new.peek(new.bind(("a", "everyone", "a")), 0.0)
    assert [(standing.name, standing.remaining) for standing in standings] == [("new", 9), ("two", 6), ("one", 5)]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(0, 30), st.floats(0, 20))
def test_what_is_given_back_afterwards_is_what_it_still_takes_away(before, after, taken, given_back, later):
    """As if the new amount had counted all along; never more than that."""
    old, fresh = store(rule(before)), store(rule(after))
    reservations = [admitted.reservation for admitted in take(old, "a", 50.0, taken) if isinstance(admitted, Admit)]
    new = store(rule(after))
    gone = Succeeded(lambda: new, new.adopt(old, 50.0), 1)
    now = 50.0 + later
    fresh_ones = [
        admitted.reservation for admitted in take(fresh, "a", 50.0, len(reservations)) if isinstance(admitted, Admit)
    ]
    for reservation in list(reversed(reservations))[:given_back]:
        gone.give_back(reservation, now)
    for reservation in list(reversed(fresh_ones))[:given_back]:
        fresh.give_back(reservation, now)
    left, expected = remaining(new, "a", now), remaining(fresh, "a", now)
    assert left == expected if len(reservations) <= after else left <= expected


def test_what_was_held_before_is_settled_after():
    tokens = rule(100, unit="tokens", name="tokens")
    old = store(rule(), tokens)
    who = old.bind((None, "a"))
    held = old.hold(who, 0.0, (60, 40, 20))
    assert isinstance(held, Hold)
    new = store(rule(200, unit="tokens", name="tokens"), rule())
    gone = Succeeded(lambda: new, new.adopt(old, 0.0), 2)
    assert new.peek(new.bind(("a", None)), 0.0)[0].remaining == 140
    gone.settle(held, 0.0, (10, 5, 5))
    gone.settle(held, 0.0, (10, 5, 5))
    assert new.peek(new.bind(("a", None)), 0.0)[0].remaining == 190
    assert new.held == 0


def test_what_had_begun_holds_afterwards_and_through_a_second_succession():
    tokens = rule(100, unit="tokens", name="tokens")
    first = store(rule(), tokens)
    who = first.bind((None, "a"))
    second, third = store(tokens), store(rule(name="else"), tokens)
    gone_second: list[Succeeded] = []
    gone_first = Succeeded(lambda: gone_second[0] if gone_second else second, second.adopt(first, 0.0), 1)
    held = gone_first.hold(who, 0.0, (30, 20, 10))
    assert isinstance(held, Hold)
    gone_second.append(Succeeded(lambda: third, third.adopt(second, 1.0), 2))
    again = gone_first.hold(who, 1.0, (30, 20, 10))
    assert isinstance(again, Hold)
    assert isinstance(gone_first.hold(who, 1.0, (60, 20, 40)), Deny)
    for hold in (held, again):
        gone_first.settle(hold, 1.0, (25, 15, 10))
    assert third.held == 0
    assert third.peek(third.bind((None, "a")), 1.0)[0].remaining == 50


def test_what_a_stand_in_takes_it_can_give_back():
    old, new = store(rule(30)), store(rule(10, name="new"), rule(60))
    gone = Succeeded(lambda: new, new.adopt(old, 0.0), 2)
    who = gone.bind(("a",))
    admitted = gone.take(who, 1.0)
    assert isinstance(admitted, Admit)
    assert [standing.remaining for standing in gone.peek(who, 1.0)] == [59]
    gone.give_back(admitted.reservation, 1.0)
    assert [standing.remaining for standing in gone.peek(who, 1.0)] == [60]
    take_all = [gone.take(who, 1.0) for _ in range(61)]
    assert isinstance(take_all[-1], Deny)


def test_a_limit_that_is_gone_keeps_nothing_of_what_is_open():
    old = store(rule(unit="tokens"))
    held = old.hold(old.bind(("a",)), 0.0, (5, 3, 2))
    assert isinstance(held, Hold)
    new = store(rule(name="other"))
    gone = Succeeded(lambda: new, new.adopt(old, 0.0), 1)
    gone.settle(held, 0.0, (5, 3, 2))
    assert remaining(new, "a", 0.0) == 30


def test_who_shares_a_cell_goes_on_sharing_it():
    old = store(rule(5), capacity=1)
    take(old, "first", 0.0, 1)
    take(old, "late", 0.0, 5)
    new = store(rule(6), capacity=10)
    new.adopt(old, 0.0)
    assert remaining(new, "late", 0.0) == 1
    assert remaining(new, "first", 0.0) == 5


def test_a_hold_from_before_is_adjusted_where_it_counts_now():
    old = store(rule(100, unit="tokens", name="gone"), rule(100, unit="tokens"))
    hold = old.hold(old.bind(("a", "a")), 0.0, (10, 10, 0))
    new = store(rule(80, unit="tokens"))
    moves = new.adopt(old, 0.0)
    stand_in = Succeeded(lambda: new, moves, 1)
    assert isinstance(stand_in.adjust(hold, 0.0, (81, 81, 0)), Deny)
    assert remaining(new, "a", 0.0) == 70
    assert stand_in.adjust(hold, 0.0, (60, 60, 0)) is None
    assert remaining(new, "a", 0.0) == 20
    assert (hold.tightest.name, hold.tightest.remaining) == ("client", 20)
    stand_in.settle(hold, 0.0, (50, 50, 0))
    assert stand_in.adjust(hold, 0.0, (70, 70, 0)) is None
    assert (remaining(new, "a", 0.0), new.held) == (30, 0)


def test_what_goes_on_through_thousands_of_successions_ends_where_it_counts_now():
    first = now = store(rule(100, unit="tokens", name="gone"), rule(100), rule(100, unit="tokens", name="tokens"))
    keys = ("a", "a", "a")
    hold = first.hold(first.bind(keys), 0.0, (10, 10, 0))
    reservation = first.take(((first.bind(keys)[1]),), 0.0).reservation
    successors, stand_ins = [], []
    for turn in range(3000):
        after = store(rule(100 + turn, unit="tokens", name="tokens"), rule(100 + turn))
        moves = after.adopt(now, 0.0)
        stand_ins.append(Succeeded(lambda turn=turn: successors[turn], moves, 2))
        if turn:
            successors.append(stand_ins[-1])
        now = after
    successors.append(now)
    stand_in = stand_ins[0]
    assert [standing.name for standing in stand_in.peek(stand_in.bind(keys), 0.0)] == ["tokens", "client"]
    stand_in.give_back(reservation, 0.0)
    stand_in.settle(hold, 0.0, (7, 7, 0))
    standings = now.peek(now.bind(("a", "a")), 0.0)
    assert [standing.quota - standing.remaining for standing in standings] == [7, 0]
    assert now.held == 0
    taken = stand_in.take((stand_in.bind(keys)[1],), 0.0)
    stand_in.give_back(taken.reservation, 0.0)
    assert now.peek(now.bind((None, "a")), 0.0)[0].remaining == 3099
