"""What a running guard exports, as Prometheus' own tools read it, and as a client that invents things can change it."""

import asyncio
import json
import re
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from corral.guard.metrics import Metrics
from corral.policy.model import Concurrency, LimitRule, Plan, Policy, Quota, Upstream
from running_guard import GuardFactory, RunningGuard, Seen, answer, api_key, post

EVENT = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
LAST = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}\n\ndata: [DONE]\n\n'


async def stream(seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Answer streams as events, everything else whole, and /health as well."""
    if seen.line.startswith("GET") or not seen.json.get("stream"):
        writer.write(answer({"usage": {"prompt_tokens": 3, "completion_tokens": 5}}))
        return
    data = EVENT + LAST
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)


def samples(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def scrape(guard: RunningGuard, metrics: Metrics) -> str:
    """Read the metrics on the guard's own thread, as its admin listener does."""

    async def read() -> str:
        return metrics.exposition().decode()

    text: str = guard.call(read())
    return text


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def busy_policy() -> Policy:
    """A policy with keys, a plan, and limits on requests and on tokens."""
    return Policy(
        auth="keys",
        keys=(api_key("alice", "alice-key"),),
        plan={"pro": Plan(limits=(LimitRule(name="pro", quota=Quota(5, 60.0)),))},
        limits=(
            LimitRule(name="client", quota=Quota(1000, 60.0)),
            LimitRule(name="hourly", quota=Quota(100_000, 3600.0, "tokens")),
        ),
        max_failed_logins=Quota(10_000, 60.0),
    )


def test_promtool_finds_nothing_to_say(start_guard: GuardFactory, metrics: Metrics) -> None:
    guard = start_guard(stream, busy_policy(), metrics)
    alice = "Authorization: Bearer alice-key\r\n"
    assert b" 200 " in guard.exchange(headers=alice)
    assert b" 200 " in guard.exchange({"messages": [{"role": "user", "content": "hi"}], "stream": True}, headers=alice)
    assert b" 401 " in guard.exchange()
    text = scrape(guard, metrics)
    checked = subprocess.run(["promtool", "check", "metrics"], input=text.encode(), capture_output=True, check=False)
    assert (checked.returncode, checked.stderr.decode(), checked.stdout.decode()) == (0, "", "")


def test_all_that_alerts_need_is_there(start_guard: GuardFactory, metrics: Metrics) -> None:
    guard = start_guard(stream, busy_policy(), metrics)
    alice = "Authorization: Bearer alice-key\r\n"
    guard.exchange({"messages": [{"role": "user", "content": "hi"}], "stream": True}, headers=alice)
    guard.exchange()
    guard.settled(2)
    found = samples(scrape(guard, metrics))
    assert found["corral_time_to_first_token_seconds_count"][()] == 1
    assert found["corral_queue_wait_seconds_count"][()] == 1
    assert found["corral_failed_logins_total"][("reason", "missing_api_key"),] == 1
    assert found["corral_tokens_total"][("direction", "output"), ("plan", "none")] == 5
    assert found["corral_max_running_requests"][()] == 4
    assert found["corral_max_waiting_requests"][()] == 64
    assert found["corral_held_tokens"][("limit", "hourly"),] == 0
    assert found["process_start_time_seconds"][()] > 1e9


def test_tokens_are_held_while_a_request_runs(start_guard: GuardFactory, metrics: Metrics) -> None:
    arrived, released = threading.Event(), threading.Event()

    async def wait(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.line.startswith("POST"):
            arrived.set()
            await asyncio.to_thread(released.wait, 10)
        writer.write(answer({"usage": {"prompt_tokens": 3, "completion_tokens": 5}}))

    guard = start_guard(wait, busy_policy(), metrics)
    with guard.connect() as client:
        client.sendall(post({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 50},
                            headers="Authorization: Bearer alice-key\r\n"))  # fmt: skip
        assert arrived.wait(10)
        found = samples(scrape(guard, metrics))
        assert found["corral_held_tokens"][("limit", "hourly"),] > 50
        assert found["corral_running_requests"][()] == 1
        released.set()
        guard.settled(1)
    assert samples(scrape(guard, metrics))["corral_held_tokens"][("limit", "hourly"),] == 0


UP = (("upstream", "upstream"),)


def test_a_server_that_is_well_is_up(start_guard: GuardFactory, metrics: Metrics) -> None:
    guard = start_guard(stream, Policy(auth="none"), metrics)
    assert samples(scrape(guard, metrics))["corral_upstream_up"][UP] == 1


def test_a_server_that_is_away_is_down(start_guard: GuardFactory, metrics: Metrics, free_port: int) -> None:
    away = Upstream(url=f"http://127.0.0.1:{free_port}")
    guard = start_guard(stream, Policy(auth="none", upstream=away), metrics)
    assert b" 502 " in guard.exchange()
    while samples(scrape(guard, metrics))["corral_upstream_up"][UP]:
        time.sleep(0.01)
    found = samples(scrape(guard, metrics))
    assert found["corral_upstream_errors_total"][("reason", "unavailable"),] == 1
    assert found["corral_upstream_errors_total"][("reason", "timeout"),] == 0
    assert b" 503 " in guard.exchange()
    guard.settled(2)
    found = samples(scrape(guard, metrics))
    assert found["corral_upstream_errors_total"][("reason", "unavailable"),] == 2


def test_what_clients_invent_makes_no_series(start_guard: GuardFactory, metrics: Metrics) -> None:
    """Paths, methods, keys, names, addresses, models, request ids: none of them is a label."""
    policy = busy_policy()
    policy = Policy(
        auth="keys", keys=policy.keys, plan=policy.plan, limits=policy.limits, concurrency=Concurrency(),
        max_failed_logins=policy.max_failed_logins, identity=policy.identity.__class__(trusted_proxies=("127.0.0.1",)),
    )  # fmt: skip
    guard = start_guard(stream, policy, metrics)

    def invent(number: int) -> None:
        body = {"model": f"model-{number}", "user": f"user-{number}", "messages": [{"role": "user", "content": "hi"}]}
        data = json.dumps(body).encode()
        requests = b"".join(
            f"{method} {path} HTTP/1.1\r\nHost: h{number}\r\nX-Forwarded-For: 10.{number}.1.2\r\n"
            f"X-Request-Id: id-{number}\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            + data
            for method, path, key in (
                ("POST", "/v1/chat/completions", "alice-key"),
                ("POST", "/v1/chat/completions", f"invented-{number}"),
                ("POST", f"/invented/{number}", "alice-key"),
                ("GET", f"/v1/models?x={number}", "alice-key"),
                ("PUT", f"/v1/models/{number}", f"invented-{number}"),
            )
        )
        guard.send(requests + b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    for number in range(3):
        invent(number)
    guard.settled(3 * 6)
    few = Counter({name: len(series) for name, series in samples(scrape(guard, metrics)).items()})
    for number in range(3, 60):
        invent(number)
    guard.settled(60 * 6)
    text = scrape(guard, metrics)
    many = Counter({name: len(series) for name, series in samples(text).items()})
    assert many == few
    assert sum(count for name, count in many.items() if name.startswith("corral_")) < 250
    for invented in ("invented", "model-", "user-", "alice", "10.5.1", "id-", "127.0.0.1"):
        assert invented not in text


def test_every_metric_is_on_its_page(start_guard: GuardFactory, metrics: Metrics) -> None:
    guard = start_guard(stream, busy_policy(), metrics)
    page = (Path(__file__).parents[2] / "docs" / "observe.md").read_text()
    documented = set(re.findall(r"`(corral_\w+)`", page)) - {
        "corral_log_lines_dropped_total",
        "corral_policy_stale",
        "corral_reloads_total",
        "corral_traces_exported_total",
        "corral_traces_dropped_total",
    }  # the command's
    exported = {line.split()[2] for line in scrape(guard, metrics).splitlines() if line.startswith("# TYPE corral_")}
    assert documented == exported
