"""Members in the order of values that change."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.engine.ranking import Ranking

CHANGES = st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(-5, 5)), max_size=300)


@settings(derandomize=True, deadline=None)
@given(CHANGES)
def test_the_smallest_comes_first_and_of_equals_the_one_put_first(changes):
    ranking: Ranking[int] = Ranking()
    model: dict[int, tuple[int, int]] = {}
    for order, (member, value) in enumerate(changes):
        if value is None:
            ranking.drop(member)
            model.pop(member, None)
        else:
            ranking.put(member, value)
            model[member] = (value, order)
        assert len(ranking) == len(model)
        if model:
            assert ranking.first() == min(model, key=model.__getitem__)


def test_nobody_is_first_of_none():
    ranking: Ranking[str] = Ranking()
    ranking.put("a", 1.0)
    ranking.drop("a")
    with pytest.raises(IndexError):
        ranking.first()


def test_memory_is_bounded_by_the_members_not_by_the_changes():
    ranking: Ranking[int] = Ranking()
    for change in range(10_000):
        ranking.put(change % 10, float(-change))
        ranking.put(change, 0.0)
        ranking.drop(change)
        assert len(ranking._heap) <= 2 * 11 + 65
