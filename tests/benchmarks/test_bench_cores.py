from benchmarks.core_time import core_seconds
from benchmarks.cores import Cores, choose

STAT = """\
cpu  100 0 100 1000 0 0 50 0 0 0
cpu0 60 0 40 500 7 3 25 5 0 0
cpu1 40 0 60 500 0 0 25 0 0 0
"""


def test_the_server_has_a_core_for_itself_wherever_there_are_two() -> None:
    assert choose([[0], [1]]) == Cores(0, 1, 1)
    assert choose([[3]]) == Cores(3, 3, 3)
    assert choose([[0], [1], [2], [3]]) == Cores(0, 1, 2)


def test_siblings_of_one_core_are_used_last() -> None:
    assert choose([[0, 4], [1, 5], [2, 6]]) == Cores(0, 1, 2)
    assert choose([[0, 1]]) == Cores(0, 1, 1)


def test_sharing_is_stated() -> None:
    assert "only one core" in Cores(0, 0, 0).words
    assert "wrk and the upstream" in Cores(0, 1, 1).words


def test_interrupts_are_not_counted_as_anybodys_work() -> None:
    hertz = 1.05 / core_seconds(0, STAT)
    assert core_seconds(1, STAT) * hertz == 1.0
    assert core_seconds(7, STAT) == 0.0
