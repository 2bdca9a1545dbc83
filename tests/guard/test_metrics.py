import pytest
from prometheus_client.parser import text_string_to_metric_families

from corral.guard.metrics import Metrics
from corral.guard.record import Finished

ANSWERED = Finished(
    at=1_700_000_000.0, request_id="r1", client="alice", address="192.0.2.1", method="POST", route="chat",
    status=200, refused="", limit="", stream=True, waited=0.02, first_byte=0.12, duration=1.5,
    bytes_in=300, bytes_out=4000, prompt_tokens=12, completion_tokens=64, compute_ms=500.0, ending="answered",
)  # fmt: skip
REFUSED = ANSWERED._replace(
    status=429, refused="quota", limit="client", ending="refused",
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


def test_requests_are_counted_by_route_status_and_ending() -> None:
    metrics = Metrics()
    for record in (ANSWERED, ANSWERED, REFUSED):
        metrics.finished(record)
    assert value(metrics, "corral_requests_total", route="chat", status="200", ending="answered") == 2
    assert value(metrics, "corral_requests_total", route="chat", status="429", ending="refused") == 1
    assert value(metrics, "corral_refusals_total", reason="quota", limit="client") == 1


def test_usage_is_summed_and_what_was_not_reported_counts_nothing() -> None:
    metrics = Metrics()
    for record in (
        ANSWERED,
        ANSWERED,
        ANSWERED._replace(prompt_tokens=-1, completion_tokens=-1, compute_ms=-1.0),
    ):
        metrics.finished(record)
    assert value(metrics, "corral_tokens_total", direction="prompt") == 24
    assert value(metrics, "corral_tokens_total", direction="completion") == 128
    assert value(metrics, "corral_compute_seconds_total") == 1.0
    assert value(metrics, "corral_client_requests_total", client="alice") == 3
    assert value(metrics, "corral_client_tokens_total", client="alice") == 152
    assert value(metrics, "corral_bytes_total", direction="in") == 900
    assert value(metrics, "corral_bytes_total", direction="out") == 12000


def test_histograms_hold_served_requests_only() -> None:
    metrics = Metrics()
    for record in (ANSWERED, ANSWERED._replace(duration=1000.0, waited=0.0, first_byte=0.0), REFUSED):
        metrics.finished(record)
    assert value(metrics, "corral_request_duration_seconds_bucket", le="1.0") == 0
    assert value(metrics, "corral_request_duration_seconds_bucket", le="2.5") == 1
    assert value(metrics, "corral_request_duration_seconds_bucket", le="+Inf") == 2
    assert value(metrics, "corral_request_duration_seconds_sum") == 1001.5
    assert value(metrics, "corral_request_wait_seconds_bucket", le="0.001") == 1
    assert value(metrics, "corral_request_first_byte_seconds_count") == 1


def test_a_bound_belongs_to_its_own_bucket() -> None:
    metrics = Metrics()
    metrics.finished(ANSWERED._replace(duration=2.5))
    assert value(metrics, "corral_request_duration_seconds_bucket", le="2.5") == 1


def test_gauges_and_counters_are_read_when_scraped() -> None:
    metrics = Metrics()
    running = [3]
    metrics.gauge("corral_running", "Requests that the server works on.", lambda: running[0])
    metrics.counter("corral_log_dropped", "Log lines lost.", lambda: 7)
    assert value(metrics, "corral_running") == 3
    assert value(metrics, "corral_log_dropped_total") == 7
    running[0] = 4
    assert value(metrics, "corral_running") == 4


def test_an_attacker_cannot_grow_it() -> None:
    metrics = Metrics()
    for number in range(5000):
        metrics.finished(ANSWERED._replace(route=f"r{number}", client=f"c{number}"))
        metrics.finished(REFUSED._replace(route="chat", refused=f"why{number}"))
    assert len(read(metrics)) < 4 * 4200
    assert value(metrics, "corral_requests_total", route="other", status="200", ending="answered") == 904 + 1
    assert value(metrics, "corral_client_requests_total", client="other") == 904


@pytest.mark.parametrize("address", ["192.0.2.1", "r1"])
def test_no_address_and_no_request_is_a_label(address: str) -> None:
    metrics = Metrics()
    metrics.finished(ANSWERED)
    assert address.encode() not in metrics.exposition()
