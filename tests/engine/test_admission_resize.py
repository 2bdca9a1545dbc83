"""Places whose number changes while requests run and wait: nobody is lost, and no place stays free for nothing."""

from hypothesis import given, settings
from hypothesis import strategies as st

from corral.engine.admission import Admission, Refused, Running, Waiting

NEVER = 1e9


def test_more_places_start_who_waits():
    places: Admission[int] = Admission(1, 10, NEVER)
    for ticket in range(4):
        places.enter(ticket, 0.0, client=ticket)
    assert (places.running, places.waiting) == (1, 3)
    assert places.resize(3, 10, NEVER, NEVER, 1.0) == [1, 2]
    assert (places.running, places.waiting) == (3, 1)


def test_fewer_places_let_those_that_run_finish_and_nobody_follow_until_there_is_room():
    places: Admission[int] = Admission(3, 10, NEVER)
    for ticket in range(5):
        places.enter(ticket, 0.0, client=ticket)
    assert places.resize(1, 10, NEVER, NEVER, 1.0) == []
    assert places.running == 3
    assert places.abandon(0, 2.0) == []
    assert places.abandon(1, 2.0) == []
    assert places.abandon(2, 2.0) == [3]
    assert (places.running, places.waiting) == (1, 1)


def test_who_waits_beyond_a_lowered_bound_is_served_and_nobody_else_is_let_in():
    places: Admission[int] = Admission(1, 10, 30.0, 1000)
    for ticket in range(6):
        places.enter(ticket, 0.0, client="a", size_bytes=100)
    places.resize(1, 2, 30.0, 1000, 0.0)
    assert isinstance(places.enter(6, 0.0, client="b"), Refused)
    served = []
    running = 0
    while places.running:
        following = places.abandon(running, 0.0)
        served += following
        running = following[0] if following else -1
    assert served == [1, 2, 3, 4, 5]


def test_a_lowered_wait_ends_nobodys_earlier_and_keeps_the_order():
    places: Admission[int] = Admission(1, 10, 30.0)
    places.enter(0, 0.0, client="a")
    places.enter(1, 0.0, client="a")
    places.resize(1, 10, 5.0, NEVER, 1.0)
    late = places.enter(2, 1.0, client="b")
    assert isinstance(late, Waiting)
    assert late.deadline == 30.0
    assert places.expire(29.0) == []
    assert sorted(places.expire(30.0)) == [1, 2]
    alone = places.enter(3, 40.0, client="b")
    assert isinstance(alone, Waiting)
    assert alone.deadline == 45.0


STEPS = st.one_of(
    st.tuples(st.just("enter"), st.integers(0, 4)),
    st.tuples(st.just("end"), st.integers(0, 50)),
    st.tuples(st.just("resize"), st.tuples(st.integers(1, 6), st.integers(0, 6))),
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=80))
def test_whatever_happens_everybody_ends_once_and_places_are_used(steps):
    places: Admission[int] = Admission(2, 4, NEVER)
    most, new = 2, 0
    running: set[int] = set()
    waiting: set[int] = set()
    for step, value in steps:
        if step == "enter":
            outcome = places.enter(new, 0.0, client=value)
            if isinstance(outcome, Running):
                running.add(new)
            elif isinstance(outcome, Waiting):
                waiting.add(new)
                waiting -= set(outcome.displaced)
            new += 1
        elif step == "end" and (running or waiting):
            ticket = sorted(running | waiting)[value % len(running | waiting)]
            running.discard(ticket)
            waiting.discard(ticket)
            following = set(places.abandon(ticket, 0.0))
            assert following <= waiting
            running |= following
            waiting -= following
        elif step == "resize":
            most = value[0]
            following = set(places.resize(most, value[1], NEVER, NEVER, 0.0))
            assert following <= waiting
            running |= following
            waiting -= following
            assert not following or len(running) <= most
        assert (places.running, places.waiting) == (len(running), len(waiting))
        assert not waiting or len(running) >= most
