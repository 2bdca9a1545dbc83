"""The guard in front of the real llama-server, and the official client in front of the guard."""

import json
import math
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx2
import openai
import pytest

from corral.policy.model import Generation, LimitRule, Policy, Quota, Upstream
from corral.policy.notation import parse_quota

pytestmark = pytest.mark.e2e

OPEN = Policy(auth="none", limits=(LimitRule(name="client", quota=Quota(10_000, 60.0)),))


@pytest.fixture
def guard(start_guard, llama_server):
    def start(policy: Policy = OPEN):
        return start_guard(policy=replace(policy, upstream=replace(Upstream(), url=llama_server.url)))

    return start


def client(guard, key: str = "unused") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{guard.port}/v1", api_key=key, max_retries=0)


def ask(guard, **more):
    return client(guard).chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Tell me of the sea."}], **more
    )


def test_the_official_client_gets_answers(guard):
    running = guard()
    answer = ask(running, max_tokens=12)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens == 12
    assert running.settled(1)[0].completion_tokens == 12


def test_the_official_client_gets_streams(guard):
    running = guard()
    pieces = [event.choices[0].delta.content for event in ask(running, max_tokens=12, stream=True) if event.choices]
    assert len([piece for piece in pieces if piece]) >= 10
    record = running.settled(1)[0]
    assert (record.stream, record.completion_tokens) == (True, 12)
    assert record.compute_ms > 0


def test_the_official_client_lists_models_and_completes_and_responds(guard):
    running = guard()
    assert client(running).models.list().data
    assert client(running).completions.create(model="tiny", prompt="hi", max_tokens=5).usage.completion_tokens == 5
    response = client(running).responses.create(model="tiny", input="hi", max_output_tokens=5)
    assert response.usage.output_tokens == 5


def test_the_official_clients_rate_limit_error_carries_message_and_headers(guard):
    running = guard(replace(OPEN, limits=(LimitRule(name="client", quota=Quota(1, 60.0)),)))
    ask(running, max_tokens=1)
    with pytest.raises(openai.RateLimitError) as caught:
        ask(running, max_tokens=1)
    assert "at most 1 request in 60 seconds" in str(caught.value)
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) > 50
    assert caught.value.response.headers["x-ratelimit-limit-requests"] == "1"


@pytest.mark.parametrize("asked", [{}, {"max_tokens": -1}, {"max_tokens": 10**6}, {"max_completion_tokens": 10**6}])
def test_no_request_generates_more_than_the_policy_allows(guard, asked):
    running = guard(replace(OPEN, generation=Generation(max_tokens=40)))
    body = {"messages": [{"role": "user", "content": "hi"}]} | asked
    answer = httpx2.post(f"http://127.0.0.1:{running.port}/v1/chat/completions", json=body, timeout=60).json()
    assert answer["usage"]["completion_tokens"] == 40


@pytest.mark.parametrize(
    ("path", "body", "count"),
    [
        ("/completion", {"prompt": "hi"}, lambda answer: answer["tokens_predicted"]),
        ("/completions", {"prompt": "hi", "max_tokens": 999}, lambda answer: answer["tokens_predicted"]),
        ("/v1/completions", {"prompt": "hi", "n_predict": 999}, lambda answer: answer["usage"]["completion_tokens"]),
        ("/chat/completions", {"messages": [{"role": "user", "content": "hi"}]},
         lambda answer: answer["usage"]["completion_tokens"]),
        ("/v1/responses", {"input": "hi"}, lambda answer: answer["usage"]["output_tokens"]),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 999},
         lambda answer: answer["usage"]["output_tokens"]),
    ],
)  # fmt: skip
def test_every_route_is_clamped_and_its_usage_read(guard, path, body, count):
    running = guard(replace(OPEN, generation=Generation(max_tokens=7)))
    url = f"http://127.0.0.1:{running.port}{path}"
    answer = httpx2.post(url, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert count(answer.json()) == 7
    streamed = httpx2.post(url, json=body | {"stream": True}, timeout=60)
    assert streamed.status_code == 200
    assert [record.completion_tokens for record in running.settled(2)] == [7, 7]


def test_a_streaming_client_that_closes_its_socket_frees_the_slot_within_a_second(guard, llama_server):
    running = guard(replace(OPEN, generation=Generation(max_tokens=100_000)))
    body = json.dumps({"prompt": "hi", "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.sendall(
            b"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        seen = b""
        while seen.count(b"data: ") < 3:
            seen += connection.recv(4096)
        assert any(slot["is_processing"] for slot in httpx2.get(f"{llama_server.url}/slots").json())
    end = time.monotonic() + 1.0
    while any(slot["is_processing"] for slot in httpx2.get(f"{llama_server.url}/slots").json()):
        assert time.monotonic() < end, "the slot is still busy after a second"
    assert running.settled(1)[0].ending == "client-left"


def limited(name: str, quota: str) -> Policy:
    return replace(OPEN, limits=(LimitRule(name=name, quota=parse_quota(quota)),), generation=Generation(max_tokens=40))


def test_the_real_servers_computing_time_is_charged_to_the_millisecond(guard):
    running = guard(limited("gpu", "100 gpu-seconds/day"))
    ask(running, max_tokens=12)
    list(ask(running, max_tokens=12, stream=True))
    records = running.settled(2)
    assert all(record.compute_ms > 0 for record in records)
    pipeline = running.guard._core.pipeline
    caller = pipeline._callers.admit("127.0.0.1", None)
    (standing,) = pipeline._store.peek(caller.token_limits, running.loop.time())
    used = sum(math.ceil(record.compute_ms) for record in records)
    assert 0 <= standing.remaining - (100_000 - used) <= 20  # what has come back since, at 100 s a day


def test_the_real_server_never_runs_more_for_a_client_than_may_run_at_once(guard):
    running = guard(replace(limited("at-once", "2 concurrent requests"), generation=Generation(max_tokens=200)))
    with ThreadPoolExecutor(6) as pool:
        url = f"http://127.0.0.1:{running.port}/completion"
        sent = [pool.submit(httpx2.post, url, json={"prompt": "hi"}, timeout=60) for _ in range(6)]
        statuses = [answer.result().status_code for answer in sent]
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= 2
    running.settled(6)
    assert running.guard._core.pipeline._store.held == 0
    assert httpx2.post(url, json={"prompt": "hi"}, timeout=60).status_code == 200


def test_limits_in_shadow_are_charged_what_the_server_used_and_refuse_nothing(guard):
    limits = tuple(
        LimitRule(name=name, quota=parse_quota(quota), shadow=True)
        for name, quota in (
            ("few", "2/hour"),
            ("tokens", "100 output tokens/hour"),
            ("places", "1 concurrent requests"),
        )
    )
    running = guard(replace(OPEN, limits=limits))
    answers = [client(running).chat.completions.with_raw_response.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=40) for _ in range(3)]  # fmt: skip
    assert [raw.headers.get("ratelimit") for raw in answers] == [None] * 3
    told = answers[2].headers["x-corral-shadow"]
    assert 'quota_exceeded;limit="few"' in told
    assert 'tokens_exceeded;limit="tokens"' in told
    records = running.settled(3)
    assert [record.shadow for record in records] == ["", "", "quota_exceeded:few,tokens_exceeded:tokens"]
    assert [record.completion_tokens for record in records] == [40] * 3


def test_a_policy_in_shadow_shortens_no_answer_of_the_server(guard):
    running = guard(replace(OPEN, shadow=True, generation=Generation(max_tokens=10)))
    assert ask(running, max_tokens=25).usage.completion_tokens == 25
    pieces = [event for event in ask(running, max_tokens=25, stream=True) if event.choices]
    assert len(pieces) > 20
    records = running.settled(2)
    assert [(record.shadow, record.completion_tokens) for record in records] == [("clamped:max_tokens", 25)] * 2
