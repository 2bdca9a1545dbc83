"""What a soak concludes from what it saw."""

from collections import Counter

import pytest
from benchmarks.soak.samples import GAUGES, Sample, bound, gauge, slope
from benchmarks.soak.verdict import judge, table

MB = 1_000_000


def sample(at: float, megabytes: float, files: int = 17, **gauges: float) -> Sample:
    return Sample(at, round(megabytes * MB), files, 6, dict.fromkeys(GAUGES, 0.0) | gauges)


def holds(samples, after=None, alive=True, **tally) -> list[bool]:
    counts = Counter({"honest served": 100, "honest failed": 0} | {k.replace("_", " "): v for k, v in tally.items()})
    judgements = judge(sample(0, 50), samples, after or sample(700, 60), counts, alive=alive)
    return [judgement.holds for judgement in judgements]


FLAT = [sample(at, 60 + (at % 3) / 10) for at in range(0, 600, 5)]


def test_the_slope_is_of_most_of_the_samples_and_not_of_a_few():
    assert slope([sample(at, 60 + at / 60) for at in range(0, 300, 5)]) == pytest.approx(1.0)
    assert slope([*FLAT, sample(600, 600)]) == pytest.approx(0.0, abs=0.01)
    assert slope([]) == 0.0


def test_noise_counts_for_less_the_longer_it_lasts():
    assert bound([sample(0, 60), sample(60, 60)]) > bound([sample(0, 60), sample(1800, 60)]) > 0.1


def test_what_comes_out_as_it_went_in_is_flat():
    assert all(holds(FLAT))


def test_each_bar_is_judged_by_itself():
    assert holds(FLAT, alive=False).index(False) == 0
    growing = [sample(at, 60 + at / 20) for at in range(0, 600, 5)]
    assert holds(growing).index(False) == 1
    assert holds(FLAT, sample(700, 60, files=18)).index(False) == 2
    assert holds(FLAT, sample(700, 60, held=5.0)).index(False) == 4
    assert holds(FLAT, honest_failed=2).index(False) == 5
    assert holds(FLAT, sample(700, 60, clients=200.0)).count(False) == 0  # what is counted may be remembered


def test_a_gauge_is_added_up_over_its_labels():
    text = 'corral_held_tokens{limit="a"} 5.0\ncorral_held_tokens{limit="b"} 7.0\ncorral_connections 3.0\n'
    assert (gauge(text, "corral_held_tokens"), gauge(text, "corral_connections"), gauge(text, "x")) == (12.0, 3.0, 0.0)


def test_the_table_has_the_last_sample():
    assert table(FLAT).splitlines()[-1].split()[0] == "595"
    assert len(table(FLAT).splitlines()) <= 23
