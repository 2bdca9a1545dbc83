import json

import pytest
from benchmarks.bars import BARS, OURS, judge, judge_latency
from benchmarks.cases import CASES, VARIED, Case
from benchmarks.measure import Plan, Result, Run, Series
from benchmarks.report import bars, document, notes, table
from benchmarks.sample import Sample
from benchmarks.wrk import Load

SAMPLE = Sample(200, (("Content-Type", "application/json"),), b"{}")


def run(rate: float, *, server: float = 0.99, wrk: float = 0.5) -> Run:
    return Run(Load(int(rate), 1.0, 0, 0, 1.0, 2.0, wrk), server, 0.3, 0.0, 0.0)


def series(name: str, *rates: float, server: float = 0.99) -> Series:
    runs = [run(rate, server=server) for rate in rates]
    return Series(name, SAMPLE, runs, Load(10, 1.0, 0, 0, 0.5, 1.5, 0.1))


def result(case: Case, nginx: float, corral: float, slowapi: float) -> Result:
    each = (
        series("nginx", nginx * 0.9, nginx, nginx * 1.1),
        series(OURS, corral * 0.9, corral, corral * 1.1),
        series("envoy", *[nginx / 4] * 3),
        series("litellm", *[50] * 3),
        series("slowapi", slowapi, slowapi, slowapi),
    )
    return Result(case, each, "TCP")


@pytest.fixture
def results() -> list[Result]:
    return [
        result(CASES[0], 100_000, 61_000, 3_000),
        result(CASES[1], 50_000, 19_000, 350),
        result(CASES[2], 5_000, 5_500, 200),
        result(VARIED[0], 100_000, 40_000, 3_000),
    ]


def test_the_document_has_the_promised_shape(results: list[Result]) -> None:
    content = document(results, judge(results), {"cpu": "x", "cores": 2}, Plan(), "2026-01-01T00:00:00+00:00")
    assert json.loads(json.dumps(content)) == content
    assert content["machine"] == {"cpu": "x", "cores": 2}
    assert content["cases"] == {
        "refused": {"nginx": 100_000, OURS: 61_000, "envoy": 25000, "litellm": 50, "slowapi": 3_000},
        "proxied": {"nginx": 50_000, OURS: 19_000, "envoy": 12500, "litellm": 50, "slowapi": 350},
        "sse": {"nginx": 5_000, OURS: 5_500, "envoy": 1250, "litellm": 50, "slowapi": 200},
    }
    assert content["spread"]["refused"][OURS]["min"] == 54_900
    assert content["varied"]["refused-varied"][OURS] == 40_000


def test_each_bar_is_judged_by_its_ratio(results: list[Result]) -> None:
    outcomes = judge(results)
    assert [outcome.bar for outcome in outcomes] == list(BARS)
    missed = [(outcome.bar.case, outcome.bar.peer) for outcome in outcomes if not outcome.passed]
    assert missed == [("proxied", "nginx")]
    assert bars(outcomes).count("\npass ") == len(BARS) - 1
    assert "FAIL  proxied" in bars(outcomes)


def test_a_bar_whose_peer_was_not_measured_is_left_out(results: list[Result]) -> None:
    alone = [Result(CASES[0], (series(OURS, 1.0),), "TCP")]
    assert judge(alone) == []
    assert judge([]) == []


def test_the_table_shows_each_contestant_with_its_ratio(results: list[Result]) -> None:
    lines = table(results[0]).splitlines()
    assert [line.split()[0] for line in lines[2:7]] == ["nginx", OURS, "envoy", "litellm", "slowapi"]
    assert "0.610 (0.61–0.61)" in lines[3]  # a range is written with an en dash


def test_a_contestant_that_did_not_fill_its_core_is_noted() -> None:
    idle = Result(CASES[0], (series("nginx", 100.0, server=0.6), series(OURS, 50.0)), "TCP")
    assert [note.split()[0] for note in notes(idle)] == ["nginx"]
    assert "lower bound" in notes(idle)[0]


def test_processor_time_tells_a_server_that_was_held_back() -> None:
    held_back = Result(CASES[1], (series("nginx", 100.0, server=0.5), series(OURS, 50.0, server=1.0)), "TCP")
    (outcome,) = [outcome for outcome in judge([held_back]) if outcome.bar.peer == "nginx"]
    assert (outcome.ratio, outcome.by_processor_time) == (0.5, 0.25)


def test_added_latency_is_told_from_the_upstreams_own(results: list[Result]) -> None:
    (outcome,) = judge_latency(results, 0.3)
    assert (outcome.ours_ms, outcome.theirs_ms) == (pytest.approx(0.2), pytest.approx(0.2))
    assert outcome.passed
    assert "bar 2" in outcome.words
    assert judge_latency(results[:1], 0.3) == []
