"""The exporter alone: what it does when the collector is away, busy, or refuses."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from prometheus_client.parser import text_string_to_metric_families

from corral.guard.metrics import Metrics
from corral.guard.record import Finished
from corral.guard.traces import exporter
from corral.guard.traces.context import TraceContext
from corral.guard.traces.exporter import TraceExporter
from corral.guard.traces.opening import count_traces
from corral.policy.model import Policy, Telemetry
from running_app import wait_for
from running_collector import Collector, collecting

RECORD = Finished(
    at=1_700_000_000.0, request_id="r1", client="", address="192.0.2.1", method="POST", route="chat", status=200,
    refused="", limit="", stream=False, waited=0.0, first_byte=0.0, duration=1.5, bytes_in=300, bytes_out=4000,
    prompt_tokens=12, completion_tokens=64, compute_ms=500.0, ending="answered",
    trace=TraceContext(1, 2, 3, 0, True),
)  # fmt: skip

Start = Callable[..., TraceExporter]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_GATHER", 0.01)
    monkeypatch.setattr(exporter, "_FIRST_PAUSE", 0.01)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture
def export() -> Iterator[Start]:
    running: list[TraceExporter] = []

    def start(endpoint: str, **settings: Any) -> TraceExporter:
        running.append(TraceExporter(Policy(telemetry=replace(Telemetry(endpoint=endpoint), **settings))))
        return running[-1]

    yield start
    for one in running:
        one.close(0.5)


def test_what_waits_is_bounded_and_what_is_lost_is_counted(export: Start, free_port: int) -> None:
    traces = export(f"http://127.0.0.1:{free_port}/v1/traces", max_waiting=50)
    for _ in range(1000):
        traces.record(RECORD)
        assert len(traces._waiting) <= 50
    wait_for(lambda: traces.dropped == 1000)
    assert traces.exported == 0


def test_a_busy_collector_is_asked_again(export: Start, collector: Collector) -> None:
    collector.statuses = [503, 429]
    traces = export(collector.endpoint)
    traces.record(RECORD)
    wait_for(lambda: traces.exported == 1)
    assert (len(collector.requests), traces.dropped) == (3, 0)


@pytest.mark.parametrize("status", [400, 401, 404, 413])
def test_a_collector_that_refuses_is_not_asked_again(
    export: Start, collector: Collector, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    collector.statuses = [status]
    traces = export(collector.endpoint)
    with caplog.at_level(logging.WARNING, "corral.guard"):
        traces.record(RECORD)
        wait_for(lambda: traces.dropped == 1)
    assert len(collector.requests) == 1
    assert f"it answered {status}" in caplog.text


def test_a_failure_is_told_once_until_it_is_over(
    export: Start, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.statuses = [404, 404, 200, 404]
    traces = export(collector.endpoint)
    with caplog.at_level(logging.WARNING, "corral.guard"):
        for count in range(1, 5):
            traces.record(RECORD)
            wait_for(lambda: traces.dropped + traces.exported == count)  # noqa: B023
    assert caplog.text.count("Traces cannot be sent") == 2


def test_spans_that_a_collector_rejects_are_told(
    export: Start, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    partial = ExportTracePartialSuccess(rejected_spans=1, error_message="too old")
    collector.body = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    traces = export(collector.endpoint)
    with caplog.at_level(logging.WARNING, "corral.guard"):
        traces.record(RECORD)
        wait_for(lambda: traces.dropped == 1)
    assert "rejected 1 spans: too old" in caplog.text


def test_what_waits_is_sent_at_the_end(export: Start, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_GATHER", 60.0)
    traces = export(collector.endpoint, authorization="Bearer for-the-collector", service="gate")
    for _ in range(300):
        traces.record(RECORD)
    traces.close(30)
    assert (len(collector.spans), traces.exported) == (300, 300)
    assert {request["authorization"] for request in collector.requests} == {"Bearer for-the-collector"}
    assert collector.resources[0]["service.name"] == "gate"


def test_what_became_of_traces_is_a_metric(export: Start, collector: Collector) -> None:
    metrics, traces = Metrics(), export(collector.endpoint)
    count_traces(metrics, traces)
    traces.record(RECORD)
    wait_for(lambda: traces.exported == 1)
    families = text_string_to_metric_families(metrics.exposition().decode())
    found = {sample.name: sample.value for family in families for sample in family.samples}
    assert (found["corral_traces_exported_total"], found["corral_traces_dropped_total"]) == (1, 0)
