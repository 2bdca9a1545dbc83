from hypothesis import given
from hypothesis import strategies as st

from corral.engine.penalty import Penalties


def test_a_penalty_lasts_its_time() -> None:
    penalties = Penalties(first=60.0)
    assert penalties.remaining("a", 0.0) == 0.0
    assert penalties.give("a", 10.0) == 60.0
    assert penalties.remaining("a", 10.0) == 60.0
    assert penalties.remaining("a", 69.5) == 0.5
    assert penalties.remaining("a", 70.0) == 0.0
    assert penalties.remaining("b", 10.0) == 0.0


def test_who_does_not_stop_is_refused_for_twice_as_long_up_to_the_most() -> None:
    penalties, now, lengths = Penalties(first=60.0, most=900.0), 0.0, []
    for _ in range(6):
        length = penalties.give("a", now)
        lengths.append(length)
        now += length
    assert lengths == [60.0, 120.0, 240.0, 480.0, 900.0, 900.0]


def test_who_stops_for_as_long_as_the_penalty_was_is_forgotten() -> None:
    penalties = Penalties(first=60.0)
    penalties.give("a", 0.0)
    assert penalties.give("a", 120.0) == 60.0
    assert penalties.give("a", 239.0) == 120.0


@given(st.lists(st.integers(0, 50), max_size=200))
def test_memory_is_bounded(who: list[int]) -> None:
    penalties = Penalties(capacity=8)
    for now, one in enumerate(who):
        penalties.give(one, float(now))
        assert len(penalties) <= 8
        assert penalties.remaining(one, float(now)) > 0.0
