from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from corral.dialects.errors import KINDS
from corral.guard.metric_families import FAILED_LOGINS
from corral.guard.metrics import Metrics
from corral.guard.record import Finished

ANSWERED = Finished(
    at=1_700_000_000.0, request_id="r1", client="alice", address="192.0.2.1", method="POST", route="chat",
    status=200, refused="", limit="", stream=True, waited=0.02, first_byte=0.12, duration=1.5,
    bytes_in=300, bytes_out=4000, prompt_tokens=12, completion_tokens=64, compute_ms=500.0, ending="answered",
)  # fmt: skip
REFUSED = ANSWERED._replace(
    status=429, refused="quota_exceeded", limit="client", ending="refused",
    prompt_tokens=-1, completion_tokens=-1, compute_ms=-1.0,
)  # fmt: skip


def read(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return read(metrics).get((name, frozenset(labels.items())))


def test_requests_are_counted_by_route_status_ending_and_plan() -> None:
    metrics = Metrics()
    for record in (ANSWERED, ANSWERED, ANSWERED._replace(plan="pro"), REFUSED):
        metrics.finished(record)
    total = "corral_requests_total"
    assert value(metrics, total, route="chat", status="200", ending="answered", plan="none") == 2
    assert value(metrics, total, route="chat", status="200", ending="answered", plan="pro") == 1
    assert value(metrics, total, route="chat", status="429", ending="refused", plan="none") == 1
    assert value(metrics, "corral_refusals_total", reason="quota_exceeded", limit="client", plan="none") == 1


def test_usage_is_summed_and_what_was_not_reported_counts_nothing() -> None:
    metrics = Metrics()
    for record in (
        ANSWERED,
        ANSWERED._replace(plan="pro"),
        ANSWERED._replace(prompt_tokens=-1, completion_tokens=-1, compute_ms=-1.0),
    ):
        metrics.finished(record)
    assert value(metrics, "corral_tokens_total", direction="input", plan="none") == 12
    assert value(metrics, "corral_tokens_total", direction="input", plan="pro") == 12
    assert value(metrics, "corral_tokens_total", direction="output", plan="pro") == 64
    assert value(metrics, "corral_compute_seconds_total") == 1.0
    assert value(metrics, "corral_transferred_bytes_total", direction="received") == 900
    assert value(metrics, "corral_transferred_bytes_total", direction="sent") == 12000
    assert value(metrics, "corral_request_input_tokens_count") == 2
    assert value(metrics, "corral_request_output_tokens_bucket", le="64.0") == 2
    assert value(metrics, "corral_request_output_tokens_bucket", le="32.0") == 0


def test_histograms_hold_served_requests_only() -> None:
    metrics = Metrics()
    for record in (ANSWERED, ANSWERED._replace(duration=1000.0, waited=0.0, first_byte=0.0), REFUSED):
        metrics.finished(record)
    assert value(metrics, "corral_request_duration_seconds_bucket", le="1.0") == 0
    assert value(metrics, "corral_request_duration_seconds_bucket", le="2.5") == 1
    assert value(metrics, "corral_request_duration_seconds_bucket", le="+Inf") == 2
    assert value(metrics, "corral_request_duration_seconds_sum") == 1001.5
    assert value(metrics, "corral_queue_wait_seconds_bucket", le="0.001") == 1


def test_the_time_to_the_first_token_is_that_of_streams_that_were_answered() -> None:
    metrics = Metrics()
    for record in (
        ANSWERED,
        ANSWERED._replace(stream=False),
        ANSWERED._replace(status=500),
        ANSWERED._replace(bytes_out=0),
        REFUSED,
    ):
        metrics.finished(record)
    assert value(metrics, "corral_time_to_first_token_seconds_count") == 1
    assert value(metrics, "corral_time_to_first_token_seconds_sum") == 0.12


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"ending": "upstream-failed", "status": 502, "refused": "upstream_unavailable"}, "unavailable"),
        ({"ending": "refused", "status": 503, "refused": "upstream_down"}, "unavailable"),
        ({"ending": "upstream-failed"}, "broken-off"),
        ({"ending": "timed-out", "status": 504, "refused": "upstream_timeout"}, "timeout"),
        ({"ending": "timed-out"}, "timeout"),
        ({"status": 503}, "server-error"),
    ],
)
def test_what_fails_at_the_server_is_no_refusal(changed: dict[str, Any], reason: str) -> None:
    metrics = Metrics()
    metrics.finished(ANSWERED._replace(**changed))
    assert value(metrics, "corral_upstream_errors_total", reason=reason) == 1
    assert not sum(count for (name, _), count in read(metrics).items() if name == "corral_refusals_total")


@pytest.mark.parametrize("changed", [{}, {"status": 400}, {"ending": "client-left"}, {"status": 0}])
def test_what_is_not_the_servers_fault_is_no_error_of_the_server(changed: dict[str, Any]) -> None:
    metrics = Metrics()
    metrics.finished(ANSWERED._replace(**changed))
    assert not any(count for (name, _), count in read(metrics).items() if name == "corral_upstream_errors_total")


def test_refusals_stand_there_before_the_first_one() -> None:
    metrics = Metrics()
    assert value(metrics, "corral_refusals_total", reason="internal", limit="", plan="none") == 0
    assert value(metrics, "corral_refusals_total", reason="upstream_unavailable", limit="", plan="none") is None
    assert value(metrics, "corral_failed_logins_total", reason="invalid_api_key") == 0
    metrics.finished(REFUSED._replace(status=401, refused="invalid_api_key", limit=""))
    assert value(metrics, "corral_failed_logins_total", reason="invalid_api_key") == 1


def test_every_reason_of_a_failed_login_is_one_that_the_guard_has() -> None:
    assert set(FAILED_LOGINS) <= set(KINDS)


def test_a_bound_belongs_to_its_own_bucket() -> None:
    metrics = Metrics()
    metrics.finished(ANSWERED._replace(duration=2.5))
    assert value(metrics, "corral_request_duration_seconds_bucket", le="2.5") == 1


def test_gauges_and_counters_are_read_when_scraped() -> None:
    metrics = Metrics()
    running = [3]
    metrics.gauge("corral_running", "Requests that the server works on.", lambda: running[0])
    metrics.counter("corral_log_lines_dropped", "Log lines lost.", lambda: 7)
    metrics.gauges("corral_held_tokens", "Tokens held.", "limit", lambda: {"hourly": 5, "daily": 6})
    assert value(metrics, "corral_running") == 3
    assert value(metrics, "corral_log_lines_dropped_total") == 7
    assert value(metrics, "corral_held_tokens", limit="daily") == 6
    running[0] = 4
    assert value(metrics, "corral_running") == 4


def test_an_attacker_cannot_grow_it() -> None:
    metrics = Metrics()
    for number in range(20_000):
        metrics.finished(ANSWERED._replace(route=f"r{number}", client=f"c{number}", address=f"a{number}"))
    assert len(metrics.tallies) == 16_384 + 1
    assert value(metrics, "corral_requests_total", route="other", status="0", ending="other", plan="none") == 3616


@pytest.mark.parametrize("address", ["192.0.2.1", "r1", "alice"])
def test_no_client_no_address_and_no_request_is_a_label(address: str) -> None:
    metrics = Metrics()
    metrics.finished(ANSWERED)
    assert address.encode() not in metrics.exposition()
