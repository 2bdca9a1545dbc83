"""The memory store: all or nothing over many limits, exact in bounded memory."""

import gc
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from corral.engine.clients import OVERFLOW_CELLS
from corral.engine.decision import Admit, Deny
from corral.engine.limit import limits_from
from corral.policy.model import LimitRule, Quota
from corral.stores.memory import MemoryStore


def store(*quotas: tuple[int, float], algorithm="gcra", **more) -> MemoryStore:
    rules = [LimitRule(name=f"l{i}", quota=Quota(*quota), algorithm=algorithm) for i, quota in enumerate(quotas)]
    return MemoryStore(limits_from(rules), **more)


def test_a_refused_request_consumes_nothing_anywhere():
    limits = store((1, 60.0), (5, 60.0))
    alice, bob = limits.bind(("alice", "all")), limits.bind(("bob", "all"))
    assert isinstance(limits.take(alice, 0.0), Admit)
    before = limits.peek(bob, 0.0)
    for _ in range(50):
        assert isinstance(limits.take(alice, 0.0), Deny)
    assert limits.peek(bob, 0.0) == before
    assert sum(isinstance(limits.take(limits.bind((f"c{i}", "all")), 0.0), Admit) for i in range(10)) == 4


def test_a_denial_names_every_limit_that_refused_and_the_longest_wait():
    limits = store((1, 10.0), (1, 60.0))
    who = limits.bind(("a", "a"))
    limits.take(who, 0.0)
    denial = limits.take(who, 0.0)
    assert isinstance(denial, Deny)
    assert [standing.name for standing in denial.violated] == ["l0", "l1"]
    assert denial.retry_after == 60.0
    assert isinstance(limits.take(who, 59.9), Deny)
    assert isinstance(limits.take(who, 60.0), Admit)


def test_the_tightest_limit_is_told():
    limits = store((10, 60.0), (4, 60.0))
    admitted = limits.take(limits.bind(("a", "b")), 0.0)
    assert isinstance(admitted, Admit)
    assert admitted.tightest is not None
    assert (admitted.tightest.name, admitted.tightest.remaining) == ("l1", 3)


def test_a_limit_that_does_not_apply_is_passed_over():
    limits = store((1, 60.0), (1, 60.0))
    who = limits.bind((None, "b"))
    assert isinstance(limits.take(who, 0.0), Admit)
    assert [standing.name for standing in limits.peek(who, 0.0)] == ["l1"]
    nobody = limits.bind((None, None))
    assert limits.take(nobody, 0.0) == limits.take(nobody, 0.0)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
def test_reserved_is_kept_or_given_back_and_nothing_is_lost(steps):
    limits = store((10, 3600.0))
    kept = 0
    for who, keep in steps:
        decision = limits.take(limits.bind((f"c{who}",)), 5.0)
        if isinstance(decision, Admit):
            if keep:
                kept += 1
            else:
                limits.give_back(decision.reservation, 5.0)
    left = sum(limits.peek(limits.bind((f"c{who}",)), 5.0)[0].remaining for who in range(6))
    assert left == 60 - kept


def test_a_clock_that_runs_backwards_stands_still():
    limits = store((1, 60.0))
    who = limits.bind(("a",))
    assert isinstance(limits.take(who, 100.0), Admit)
    denial = limits.take(who, 10.0)
    assert isinstance(denial, Deny)
    assert denial.retry_after == 60.0


@given(st.sampled_from(["gcra", "window"]), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 30)), max_size=400))
def test_no_client_ever_gets_more_than_its_quota_however_many_are_invented(algorithm, steps):
    limits = store((3, 60.0), algorithm=algorithm, capacity=8)
    now, served = 0.0, {}
    for who, gap in steps:
        now += gap / 10
        if isinstance(limits.take(limits.bind((f"c{who}",)), now), Admit):
            served.setdefault(who, []).append(now)
        assert len(limits) <= 8 + OVERFLOW_CELLS
    for times in served.values():
        for start in times:
            inside = [t for t in times if start <= t < start + 60.0]
            assert len(inside) <= 3 + (3 if algorithm == "window" else 3 * (inside[-1] - start) / 60.0 + 1e-6)


def test_a_known_client_keeps_its_own_count_in_a_flood_of_strangers():
    limits = store((5, 60.0), capacity=10)
    alice = limits.bind(("alice",))
    limits.take(alice, 0.0)
    for number in range(5000):
        limits.take(limits.bind((f"stranger{number}",)), 0.001)
    assert limits.peek(alice, 0.001)[0].remaining == 4
    assert limits.overflowed > 4000


def test_who_spent_in_a_shared_cell_does_not_start_afresh_when_there_is_room():
    limits = store((5, 60.0), capacity=1)
    limits.take(limits.bind(("first",)), 0.0)
    late = limits.bind(("late",))
    for _ in range(5):
        assert isinstance(limits.take(late, 59.0), Admit)
    assert isinstance(limits.take(late, 62.0), Deny)  # "first" has expired, but the cell has not
    assert isinstance(limits.take(late, 200.0), Admit)


def test_ten_million_invented_clients_stay_in_bounded_memory():
    limits = store((30, 60.0), capacity=20_000)
    bind, take = limits.bind, limits.take
    gc.collect()
    tracemalloc.start()
    for number in range(100_000):
        take(bind((number.to_bytes(8).hex(),)), 0.0)
    first = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    for number in range(100_000, 10_000_000):
        clients = limits._clients[0]
        owner, state = clients.find(number.to_bytes(8).hex(), 1)
        if state is None:
            clients.put(owner, 1)
    assert len(limits) <= 20_000 + OVERFLOW_CELLS
    assert first / 20_000 <= 200, f"{first / 20_000:.0f} bytes a client"


def test_expired_clients_are_forgotten():
    limits = store((1, 1.0), capacity=1000)
    for number in range(500):
        limits.take(limits.bind((f"c{number}",)), 0.0)
    limits.take(limits.bind(("x",)), 1.5)
    limits.take(limits.bind(("y",)), 3.5)
    assert len(limits) <= 2
