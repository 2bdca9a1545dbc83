"""Spans of a running guard, as a collector decodes them from real HTTP."""

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

import corral.wsgi
from corral.errors import PolicyError
from corral.guard.access_log import json_line
from corral.guard.traces import exporter
from corral.guard.traces.opening import open_traces
from corral.policy.model import Concurrency, Identity, LimitRule, Policy, Quota, Telemetry
from running_app import serve_asgi, serve_wsgi, wait_for
from running_collector import Collector, attributes, by_kind, collecting
from running_guard import GuardFactory, Seen, answer, api_key, post

PROMPT = "a prompt that is nobody's business"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_GATHER", 0.01)
    monkeypatch.setattr(exporter, "_FIRST_PAUSE", 0.01)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


def traced(endpoint: str, **settings: Any) -> Policy:
    return Policy(auth="none", telemetry=replace(Telemetry(endpoint=endpoint, sample_ratio=1.0), **settings))


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "llama-3", "messages": [{"role": "user", "content": PROMPT}], **fields}


def test_a_request_is_a_span_with_its_trip_to_the_server_below(start_guard: GuardFactory, collector: Collector) -> None:
    guard = start_guard(policy=traced(collector.endpoint))
    before = time.time_ns()
    assert b" 200 " in guard.exchange(chat(max_tokens=7))
    spans = by_kind(collector.wait_for(2))
    own, trip = spans["server"], spans["trip"]
    (record,) = guard.records
    assert (own.name, own.parent_span_id, own.status.code) == (
        "POST /v1/chat/completions",
        b"",
        Status.STATUS_CODE_UNSET,
    )
    assert attributes(own) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "corral.request_id": record.request_id,
        "corral.route": "chat",
        "corral.ending": "answered",
    }
    assert (trip.name, trip.trace_id, trip.parent_span_id) == ("chat llama-3", own.trace_id, own.span_id)
    assert attributes(trip) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": guard.server.port,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llamacpp",
        "gen_ai.request.model": "llama-3",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 5,
    }
    assert before - 2 * 10**9 <= own.start_time_unix_nano <= trip.start_time_unix_nano
    assert trip.end_time_unix_nano <= own.end_time_unix_nano + 10**6
    assert collector.resources[0]["service.name"] == "corral"
    assert collector.requests[0]["content-type"] == "application/x-protobuf"
    assert json.loads(json_line(record))["trace_id"] == own.trace_id.hex()


def test_waiting_for_a_place_is_a_span_of_its_own(start_guard: GuardFactory, collector: Collector) -> None:
    arrived, released = threading.Event(), threading.Event()

    async def hold(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if not arrived.is_set():
            arrived.set()
            await asyncio.to_thread(released.wait, 10)
        writer.write(answer({"usage": {"prompt_tokens": 1, "completion_tokens": 1}}))

    guard = start_guard(hold, replace(traced(collector.endpoint), concurrency=Concurrency(max_running=1)))
    with guard.connect() as first, guard.connect() as second:
        first.sendall(post(chat()))
        assert arrived.wait(10)
        second.sendall(post(chat()))
        wait_for(lambda: guard.guard.waiting == 1)
        time.sleep(0.02)  # the loop's clock counts milliseconds: let the wait have some
        released.set()
        spans = collector.wait_for(5)
    (queue,) = [span for span in spans if span.name == "queue"]
    request = by_kind([span for span in spans if span.trace_id == queue.trace_id])
    assert (queue.kind, queue.parent_span_id) == (Span.SPAN_KIND_INTERNAL, request["server"].span_id)
    assert request["server"].start_time_unix_nano <= queue.start_time_unix_nano < queue.end_time_unix_nano
    assert abs(request["trip"].start_time_unix_nano - queue.end_time_unix_nano) < 10**6
    assert len({span.span_id for span in spans}) == 5


def test_a_refusal_is_a_span_without_a_trip_and_nothing_secret_is_in_one(
    start_guard: GuardFactory, collector: Collector
) -> None:
    policy = replace(
        traced(collector.endpoint),
        auth="keys",
        keys=(api_key("alice", "alice-key"),),
        limits=(LimitRule(name="few", quota=Quota(1, 3600.0)),),
    )
    guard = start_guard(policy=policy)
    key = "Authorization: Bearer alice-key\r\n"
    assert b" 200 " in guard.exchange(chat(), headers=key)
    assert b" 429 " in guard.exchange(chat(), headers=key)
    assert b" 401 " in guard.exchange(chat(), headers="Authorization: Bearer a-wrong-key\r\n")
    assert b" 404 " in guard.exchange(chat(), path="/secret/path", headers=key)
    spans = collector.wait_for(5)
    refused = [attributes(span) for span in spans if "corral.refused" in attributes(span)]
    assert [(a["http.response.status_code"], a["corral.refused"], a.get("corral.limit")) for a in refused] == [
        (429, "quota_exceeded", "few"),
        (401, "invalid_api_key", None),
        (404, "not_found", None),
    ]
    assert [a.get("corral.client") for a in refused] == ["alice", None, "alice"]
    assert spans[-1].name == "POST"
    assert all(span.status.code == Status.STATUS_CODE_UNSET for span in spans)
    everything = b"".join(span.SerializeToString() for span in spans)
    for secret in (PROMPT, "alice-key", "a-wrong-key", "/secret/path", "hello"):
        assert secret.encode() not in everything


def test_a_server_that_is_away_is_an_error(start_guard: GuardFactory, collector: Collector, free_port: int) -> None:
    policy = traced(collector.endpoint)
    away = replace(policy.upstream, url=f"http://127.0.0.1:{free_port}")
    guard = start_guard(policy=replace(policy, upstream=away))
    assert b" 502 " in guard.exchange(chat())
    (own,) = collector.wait_for(1)
    assert own.status.code == Status.STATUS_CODE_ERROR
    assert attributes(own)["error.type"] == "upstream_unavailable"


def test_a_stream_says_when_its_first_piece_came(start_guard: GuardFactory, collector: Collector) -> None:
    async def slowly(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.03)
        data = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}\n\n'
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)

    guard = start_guard(slowly, traced(collector.endpoint))
    guard.exchange(chat(stream=True, model="m" * 5000))
    trip = attributes(by_kind(collector.wait_for(2))["trip"])
    assert trip["gen_ai.request.stream"] is True
    assert trip["gen_ai.response.time_to_first_chunk"] > 0
    assert trip["gen_ai.usage.output_tokens"] == 5
    assert trip["gen_ai.request.model"] == "m" * 128


def test_a_proxys_trace_goes_on_to_the_server(start_guard: GuardFactory, collector: Collector) -> None:
    policy = replace(
        traced(collector.endpoint, sample_ratio=0.0, parent="proxies", forward=True),
        identity=Identity(trusted_proxies=("127.0.0.1",)),
    )
    guard = start_guard(policy=policy)
    guard.exchange(chat(), headers=f"traceparent: {PARENT}\r\n")
    spans = by_kind(collector.wait_for(2))
    assert spans["server"].trace_id.hex() == PARENT[3:35]
    assert spans["server"].parent_span_id.hex() == PARENT[36:52]
    assert guard.server.seen[0].head["traceparent"] == f"00-{PARENT[3:35]}-{spans['trip'].span_id.hex()}-01"


def test_the_server_is_sent_nothing_unless_it_is_wanted(start_guard: GuardFactory, collector: Collector) -> None:
    guard = start_guard(policy=traced(collector.endpoint))
    guard.exchange(chat(), headers=f"traceparent: {PARENT}\r\n")
    assert collector.wait_for(2)[0].trace_id.hex() != PARENT[3:35]
    assert "traceparent" not in guard.server.seen[0].head


def test_what_is_not_chosen_is_not_exported(start_guard: GuardFactory, collector: Collector) -> None:
    guard = start_guard(policy=traced(collector.endpoint, sample_ratio=0.0, forward=True))
    guard.exchange(chat(), headers=f"traceparent: {PARENT}\r\n")
    guard.settled(1)
    assert guard.server.seen[0].head["traceparent"].endswith("-00")
    assert guard.traces is not None
    guard.traces.close()
    assert collector.requests == []


USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "tokens_evaluated": 3, "tokens_predicted": 5}


def asgi(policy: Policy) -> Any:
    service = FastAPI()
    service.add_middleware(corral.Guard, policy=policy)
    service.post("/completion")(lambda: USAGE)
    service.get("/hello")(lambda: USAGE)
    return serve_asgi(service)


def wsgi(policy: Policy) -> Any:
    service = Flask("service")
    service.post("/completion", endpoint="completion")(lambda: USAGE)
    service.get("/hello", endpoint="hello")(lambda: USAGE)
    return serve_wsgi(corral.wsgi.Guard(service.wsgi_app, policy=policy))


@pytest.mark.parametrize("serve", [asgi, wsgi])
def test_middleware_traces_too(serve: Any, collector: Collector) -> None:
    with serve(traced(collector.endpoint)) as client:
        client.post({"prompt": "hi"})
        client.get("/hello")
        spans = collector.wait_for(3)
    assert [span.name for span in spans if span.kind == Span.SPAN_KIND_SERVER] == ["POST /completion", "GET"]
    (inside,) = [span for span in spans if span.kind == Span.SPAN_KIND_INTERNAL]
    assert inside.name == "text_completion"
    assert attributes(inside)["gen_ai.usage.output_tokens"] == 5
    assert "server.address" not in attributes(inside)


def test_a_collector_that_is_away_delays_nothing(start_guard: GuardFactory, free_port: int) -> None:
    guard = start_guard(policy=traced(f"http://127.0.0.1:{free_port}/v1/traces"))
    traces = guard.traces
    assert traces is not None
    for _ in range(20):
        assert b" 200 " in guard.exchange(chat())
    wait_for(lambda: traces.dropped == 20)
    assert traces.exported == 0


def test_a_collector_that_does_not_answer_delays_nothing(start_guard: GuardFactory) -> None:
    """It takes connections and says nothing: only the thread that exports waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
        guard = start_guard(policy=traced(endpoint, max_waiting=3))
        traces = guard.traces
        assert traces is not None
        guard.exchange(chat())
        accepted, _ = silent.accept()  # the thread is at it, and waits
        for _ in range(10):
            assert b" 200 " in guard.exchange(chat())
        wait_for(lambda: traces.dropped == 7)
        accepted.close()


def test_the_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("corral.guard.traces.exporter", "corral.guard.traces.spans"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(PolicyError, match=r"pip install 'corral\[otel\]'"):
        open_traces(traced("http://127.0.0.1:4318/v1/traces"))
    assert open_traces(Policy()) is None
