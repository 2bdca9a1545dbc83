"""A circuit opens after failures in a row, lets one probe through after each pause, and closes when all is well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.engine.circuit import Circuit


def test_a_few_failures_in_a_row_open_it_and_an_answer_between_them_does_not_let_them():
    circuit = Circuit(3, 1.0, 8.0)
    assert not circuit.failed(0.0, 0.0)
    assert not circuit.failed(0.0, 0.0)
    circuit.answered()
    assert not circuit.failed(0.0, 0.0)
    assert not circuit.failed(0.0, 0.0)
    assert circuit.state == "closed"
    assert circuit.failed(0.0, 0.0)
    assert circuit.state == "open"


def test_a_certain_failure_opens_it_alone():
    circuit = Circuit(3, 1.0, 8.0)
    assert circuit.failed(0.0, 0.0, certain=True)
    assert not circuit.failed(0.0, 0.0, certain=True)


def test_one_probe_goes_through_after_each_pause_and_each_in_vain_doubles_the_pause_up_to_the_longest():
    circuit = Circuit(1, 1.0, 5.0)
    circuit.failed(0.0, 1.0)
    now = 0.0
    for pause in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert circuit.retry_at == pytest.approx(now + pause)
        assert not circuit.may_probe(now + pause - 0.01)
        now += pause
        assert circuit.may_probe(now)
        circuit.probe(now)
        assert circuit.state == "half-open"
        assert not circuit.may_probe(now)
        circuit.probe_failed(now, 1.0)
        assert circuit.state == "open"
    assert circuit.well(now)
    assert circuit.state == "closed"
    assert not circuit.well(now)


def test_a_probe_before_its_time_lengthens_no_pause_but_may_close():
    circuit = Circuit(1, 2.0, 8.0)
    circuit.failed(0.0, 1.0)
    circuit.probe(0.5)
    circuit.probe_failed(0.6, 1.0)
    assert (circuit.state, circuit.retry_at) == ("open", 2.0)
    circuit.probe(0.7)
    assert circuit.well(0.8)


def test_what_is_known_to_pass_lengthens_no_pause():
    circuit = Circuit(1, 1.0, 8.0)
    circuit.probe_failed(0.0, 1.0, certain=True, grow=False)
    for now in (1.0, 2.0, 3.0):
        assert circuit.may_probe(now)
        circuit.probe(now)
        circuit.probe_failed(now, 1.0, certain=True, grow=False)
        assert circuit.retry_at == now + 1.0


def test_one_that_opens_again_at_once_goes_on_where_its_pauses_had_come_to():
    circuit = Circuit(1, 1.0, 60.0)
    circuit.failed(0.0, 1.0)
    circuit.well(1.0)
    circuit.failed(1.1, 1.0)
    assert circuit.retry_at == pytest.approx(3.1)
    circuit.well(3.1)
    circuit.failed(100.0, 1.0)
    assert circuit.retry_at == pytest.approx(101.0)


def test_failures_of_requests_that_were_under_way_lengthen_no_pause():
    circuit = Circuit(1, 1.0, 8.0)
    circuit.failed(0.0, 1.0)
    circuit.failed(0.9, 1.0)
    circuit.answered()
    assert (circuit.state, circuit.retry_at) == ("open", 1.0)


@given(
    st.lists(st.tuples(st.sampled_from(["failed", "answered", "well", "ill", "probe"]), st.floats(0, 5)), max_size=60),
    st.floats(0, 1, exclude_max=True),
)
def test_its_pauses_have_bounds_whatever_happens(steps, jitter):
    circuit, now = Circuit(2, 1.0, 6.0), 0.0
    for what, passed in steps:
        now += passed
        was = circuit.closed
        if what == "failed":
            circuit.failed(now, jitter)
        elif what == "answered":
            circuit.answered()
            assert circuit.closed is was
        elif what == "well":
            circuit.well(now)
            assert circuit.closed
        elif what == "ill":
            circuit.probe_failed(now, jitter)
        elif circuit.may_probe(now):
            circuit.probe(now)
            assert circuit.state == "half-open"
        if was and not circuit.closed:
            assert 0.499 < circuit.retry_at - now < 6.001
        assert circuit.closed or circuit.retry_at - now < 6.001
