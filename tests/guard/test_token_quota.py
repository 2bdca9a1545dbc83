"""Token quotas, seen from sockets: what is held, refused, charged, given back and told."""

import asyncio
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from corral.policy.model import Concurrency, Generation, LimitRule, Plan, Policy, Quota, Upstream
from running_guard import answer, api_key, post, read_all


def limits(*quotas: tuple[int, str], algorithm="window", **more) -> Policy:
    rules = tuple(
        LimitRule(name=unit.replace(" ", "-"), quota=Quota(amount, 3600.0, unit), algorithm=algorithm)
        for amount, unit in quotas
    )
    return Policy(auth="none", limits=rules, generation=Generation(max_tokens=200), **more)


def reports(prompt: int | None, completion: int | None, status="200 OK"):
    usage = {
        name: count
        for name, count in (("prompt_tokens", prompt), ("completion_tokens", completion))
        if count is not None
    }

    async def handler(seen, writer):
        writer.write(answer({"choices": [], "usage": usage} if usage else {"choices": []}, status))

    return handler


def status(said: bytes) -> int:
    return int(said.split()[1])


def header(said: bytes, name: str) -> str | None:
    found = re.search(rb"(?im)^" + name.encode() + rb": (.*?)\r$", said.partition(b"\r\n\r\n")[0] + b"\r\n")
    return found[1].decode() if found else None


def body(said: bytes):
    return json.loads(said.partition(b"\r\n\r\n")[2])


def chat(most: int | None = None, text="hi", **more):
    asked = {"messages": [{"role": "user", "content": text}], **more}
    return asked if most is None else {**asked, "max_tokens": most}


def left(guard) -> dict[str, int]:
    """How much each limit has left for whoever calls from this machine."""
    return guard.call(_left(guard))


async def _left(guard) -> dict[str, int]:
    pipeline = guard.guard._core.pipeline
    caller = pipeline._callers.admit("127.0.0.1", None)
    store = pipeline._store
    standings = [*store.peek(caller.limits, guard.loop.time()), *store.peek(caller.token_limits, guard.loop.time())]
    return {standing.name: standing.remaining for standing in standings}


def until(condition, timeout=10.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def held(guard) -> int:
    return guard.guard._core.pipeline._store.held


def test_what_the_server_reports_is_charged(start_guard):
    guard = start_guard(reports(30, 7), limits((1000, "tokens"), (500, "input tokens"), (500, "output tokens")))
    said = guard.exchange(chat(100))
    assert status(said) == 200
    guard.settled(1)
    assert left(guard) == {"tokens": 963, "input-tokens": 470, "output-tokens": 493}
    assert held(guard) == 0


def test_unknown_usage_is_charged_as_reserved(start_guard):
    guard = start_guard(reports(None, None), limits((500, "output tokens")))
    assert status(guard.exchange(chat(100))) == 200
    guard.settled(1)
    assert left(guard) == {"output-tokens": 400}


def test_more_than_was_reserved_is_charged_too(start_guard):
    guard = start_guard(reports(450, 100), limits((1000, "tokens")))
    assert status(guard.exchange(chat(100))) == 200
    guard.settled(1)
    assert left(guard) == {"tokens": 450}


def test_every_answer_of_a_request_is_reserved(start_guard):
    policy = replace(limits((1000, "output tokens")), generation=Generation(max_tokens=200, max_choices=4))
    guard = start_guard(reports(None, None), policy)
    assert status(guard.exchange(chat(100, n=3))) == 200
    assert status(guard.exchange({"prompt": ["a", "b"], "max_tokens": 50}, path="/v1/completions")) == 200
    guard.settled(2)
    assert left(guard) == {"output-tokens": 1000 - 300 - 100}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict", "max_output_tokens"])
def test_every_name_of_the_maximum_is_reserved(start_guard, name):
    guard = start_guard(reports(None, None), limits((1000, "output tokens")))
    guard.exchange({**chat(1), name: 150})
    guard.exchange({"input": "hi", name: 150}, path="/v1/responses")
    guard.settled(2)
    assert left(guard) == {"output-tokens": 1000 - 2 * 150}


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/embeddings", {"input": ["word " * 40, "word " * 40]}),
        ("/v1/rerank", {"query": "word " * 40, "documents": ["word " * 40]}),
        ("/tokenize", {"content": "word " * 80}),
    ],
)
def test_what_generates_nothing_costs_its_prompt(start_guard, path, asked):
    guard = start_guard(reports(None, None), limits((1000, "tokens"), (10, "output tokens")))
    assert status(guard.exchange(asked, path=path)) == 200
    guard.settled(1)
    assert 95 <= 1000 - left(guard)["tokens"] <= 115
    assert left(guard)["output-tokens"] == 10


def test_a_refusal_for_tokens_says_limit_used_requested_and_when_and_burns_no_request(start_guard):
    guard = start_guard(reports(10, 180), limits((10, "requests"), (300, "tokens")))
    assert status(guard.exchange(chat(200))) == 200
    guard.settled(1)
    said = guard.exchange(chat(200))
    assert status(said) == 429
    error = body(said)["error"]
    assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
    assert error["violated-policies"] == ["tokens"]
    assert re.search(r"Limit 300, Used 190, Requested 2\d\d\. Please try again in \d+[hm]\d+", error["message"])
    assert re.search(r"or ask for at most (\d+) tokens an answer\.$", error["message"])
    assert int(header(said, "Retry-After")) > 3000
    assert header(said, "x-ratelimit-limit-tokens") == "300"
    assert header(said, "x-ratelimit-remaining-tokens") == "110"
    assert header(said, "RateLimit").startswith('"tokens";r=110;t=')
    assert header(said, "x-ratelimit-limit-requests") is None
    assert left(guard) == {"requests": 9, "tokens": 110}
    assert guard.settled(2)[1].limit == "tokens"
    fits = int(re.search(r"at most (\d+) tokens", error["message"])[1])
    assert status(guard.exchange(chat(fits))) == 200


def test_a_maximum_is_never_shrunk_to_what_is_left(start_guard):
    guard = start_guard(reports(10, 90), limits((300, "output tokens")))
    assert status(guard.exchange(chat(200))) == 200
    guard.settled(1)
    assert left(guard) == {"output-tokens": 210}
    assert status(guard.exchange(chat(200))) == 200
    guard.settled(2)
    said = guard.exchange(chat(200))
    assert status(said) == 429
    assert "at most 120 tokens" in body(said)["error"]["message"]
    assert len(guard.server.seen) == 2


def test_the_first_request_without_a_maximum_is_served_though_the_policys_is_above_the_quota(start_guard):
    guard = start_guard(reports(10, 20), limits((100, "tokens")))
    said = guard.exchange(chat())
    assert status(said) == 200
    granted = guard.server.seen[0].json["max_tokens"]
    assert 60 <= granted < 100
    assert header(said, "X-Corral-Max-Tokens") == str(granted)
    guard.settled(1)
    assert left(guard) == {"tokens": 70}


def test_a_request_that_can_never_fit_says_so_and_what_would(start_guard):
    guard = start_guard(reports(10, 20), limits((10, "requests"), (100, "tokens")))
    said = guard.exchange(chat(150))
    assert status(said) == 400
    assert header(said, "Retry-After") is None
    error = body(said)["error"]
    assert (error["code"], error["param"]) == ("exceeds_quota", "max_tokens")
    most = int(
        re.search(r"can never fit: Limit 100, Requested \d+ tokens .* at most (\d+) tokens", error["message"])[1]
    )
    assert status(guard.exchange(chat(most))) == 200
    too_long = guard.exchange(chat(10, "word " * 200))
    assert status(too_long) == 400
    assert "Send a shorter prompt." in body(too_long)["error"]["message"]
    assert held(guard) == 0


def test_what_is_owed_is_said_where_the_wait_is_longer_than_the_window(start_guard):
    guard = start_guard(reports(100, 350), limits((300, "tokens"), algorithm="gcra"))
    assert status(guard.exchange(chat(100))) == 200
    guard.settled(1)
    said = guard.exchange(chat(150))
    assert status(said) == 429
    message = body(said)["error"]["message"]
    assert re.search(r"Limit 300, Used 450 \(150 of them owed, which come back first\), Requested \d+\.", message)


def test_a_limit_on_answers_says_nothing_of_the_prompt(start_guard):
    guard = start_guard(reports(1, 1), limits((100, "output tokens")))
    assert body(guard.exchange(chat(150)))["error"]["message"] == (
        "This request can never fit: Limit 100, Requested 150 output tokens. Ask for at most 100 tokens an answer."
    )
    several = Generation(max_tokens=200, max_choices=4)
    guard = start_guard(reports(1, 1), replace(limits((2, "output tokens")), generation=several))
    message = body(guard.exchange(chat(1, n=3)))["error"]["message"]
    assert message.endswith("Requested 3 output tokens. Ask for fewer answers at once.")


def test_a_tiny_quota_beside_a_long_prompt_is_no_answer_of_a_few_tokens(start_guard):
    guard = start_guard(reports(10, 20), limits((100, "tokens")))
    said = guard.exchange(chat(None, "word " * 70))
    assert status(said) == 400
    assert "can never fit" in body(said)["error"]["message"]


def test_concurrent_requests_cannot_pass_the_limit(start_guard):
    go = threading.Event()

    async def slow(seen, writer):
        while not go.is_set():
            await asyncio.sleep(0.01)
        writer.write(answer({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 100}}))

    policy = limits((450, "output tokens"), concurrency=Concurrency(max_running=20))
    guard = start_guard(slow, policy)
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(guard.exchange, chat(100)) for _ in range(20)]
        guard.settled(16)
        assert left(guard) == {"output-tokens": 50}
        go.set()
        answers = sorted(status(said.result()) for said in asked)
    assert answers == [200] * 4 + [429] * 16
    guard.settled(20)
    assert left(guard) == {"output-tokens": 50}
    assert held(guard) == 0


def events(*parts: dict, done=True) -> bytes:
    lines = [b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts]
    return b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def streams(data: bytes, *, length: int | None = None, wait: threading.Event | None = None):
    async def handler(seen, writer):
        writer.write(STREAM + b"Content-Length: %d\r\n\r\n" % (len(data) if length is None else length) + data)
        await writer.drain()
        if wait is not None:
            while not wait.is_set():
                await asyncio.sleep(0.01)

    return handler


def test_a_stream_is_charged_once_from_its_last_count(start_guard):
    counts = [{"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": number}} for number in (1, 2, 3)]
    guard = start_guard(streams(events(*counts)), limits((1000, "tokens")))
    assert status(guard.exchange(chat(100, stream=True))) == 200
    guard.settled(1)
    assert left(guard) == {"tokens": 987}


def test_a_stream_without_a_count_is_charged_as_reserved(start_guard):
    guard = start_guard(streams(events({"choices": [{"delta": {"content": "x"}}]})), limits((1000, "output tokens")))
    guard.exchange(chat(100, stream=True))
    guard.settled(1)
    assert left(guard) == {"output-tokens": 900}


def leave_midway(guard, asked, path="/v1/chat/completions"):
    with guard.connect() as connection:
        connection.sendall(post(asked, path=path))
        assert b"data:" in connection.recv(65536)
    guard.settled(1)


@pytest.mark.parametrize(("part", "charged"), [
    ({"choices": [{"delta": {"content": "x"}}]}, 100),
    ({"choices": [{"delta": {"content": "x"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}, 5),
])  # fmt: skip
def test_a_client_that_leaves_is_charged_what_passed_if_that_is_known(start_guard, part, charged):
    wait = threading.Event()
    guard = start_guard(streams(events(part, done=False), length=10_000, wait=wait), limits((1000, "output tokens")))
    leave_midway(guard, chat(100, stream=True))
    wait.set()
    assert left(guard) == {"output-tokens": 1000 - charged}
    assert held(guard) == 0


def test_what_anthropics_stream_begins_with_is_no_count_of_its_answer(start_guard):
    wait = threading.Event()
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 12, "output_tokens": 1}}}
    policy = limits((1000, "output tokens"), (1000, "input tokens"))
    guard = start_guard(streams(events(start, done=False), length=10_000, wait=wait), policy)
    leave_midway(guard, chat(100, stream=True), path="/v1/messages")
    wait.set()
    assert left(guard) == {"output-tokens": 900, "input-tokens": 988}


def test_a_client_that_leaves_before_the_server_has_the_request_gets_its_tokens_back(start_guard):
    wait = threading.Event()

    async def slow(seen, writer):
        while not wait.is_set():
            await asyncio.sleep(0.01)
        writer.write(answer({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 5}}))

    guard = start_guard(slow, limits((1000, "output tokens"), concurrency=Concurrency(max_running=1)))
    with guard.connect() as first:
        first.sendall(post(chat(100), headers="Connection: close\r\n"))
        until(lambda: guard.guard.running == 1)
        with guard.connect() as second:
            second.sendall(post(chat(100)))
            until(lambda: guard.guard.waiting == 1)
            assert left(guard) == {"output-tokens": 800}
        guard.settled(1)
        assert left(guard) == {"output-tokens": 900}
        wait.set()
        read_all(first)
    guard.settled(2)
    assert left(guard) == {"output-tokens": 995}


def test_what_finds_no_place_or_no_server_gets_everything_back(start_guard):
    policy = limits((10, "requests"), (1000, "tokens"), upstream=Upstream(url="http://127.0.0.1:1"))
    guard = start_guard(policy=policy)
    assert status(guard.exchange(chat(100))) == 502
    guard.settled(1)
    assert left(guard) == {"requests": 10, "tokens": 1000}

    wait = threading.Event()

    async def slow(seen, writer):
        while not wait.is_set():
            await asyncio.sleep(0.01)
        writer.write(answer({"choices": []}))

    full = start_guard(slow, limits((1000, "output tokens"), concurrency=Concurrency(max_running=1, max_waiting=0)))
    with full.connect() as first:
        first.sendall(post(chat(100)))
        until(lambda: full.guard.running == 1)
        assert status(full.exchange(chat(100))) == 503
        full.settled(1)
        assert left(full) == {"output-tokens": 900}
        wait.set()
        until(lambda: full.guard.running == 0)


def test_a_server_that_breaks_off_after_it_had_the_request_is_charged_as_reserved(start_guard):
    async def crash(seen, writer):
        writer.transport.abort()

    guard = start_guard(crash, limits((1000, "output tokens")))
    assert status(guard.exchange(chat(100))) == 502
    guard.settled(1)
    assert left(guard) == {"output-tokens": 900}


@pytest.mark.parametrize(("said", "charged"), [("400 Bad Request", 0), ("503 Service Unavailable", 0),
                                               ("500 Internal Server Error", 100)])  # fmt: skip
def test_what_the_server_itself_refuses_costs_nothing(start_guard, said, charged):
    guard = start_guard(reports(None, None, said), limits((1000, "output tokens")))
    guard.exchange(chat(100))
    guard.settled(1)
    assert left(guard) == {"output-tokens": 1000 - charged}


def test_openais_headers_tell_requests_and_tokens_and_the_ietfs_the_tightest(start_guard):
    guard = start_guard(reports(10, 20), limits((10, "requests"), (1000, "tokens")))
    said = guard.exchange(chat(200))
    assert header(said, "RateLimit-Policy") == '"requests";q=10;w=3600, "tokens";q=1000;w=3600'
    assert header(said, "x-ratelimit-limit-requests") == "10"
    assert header(said, "x-ratelimit-remaining-requests") == "9"
    assert header(said, "x-ratelimit-limit-tokens") == "1000"
    assert 780 <= int(header(said, "x-ratelimit-remaining-tokens")) <= 799
    assert header(said, "x-ratelimit-reset-tokens") == "1h0m0s"
    assert header(said, "RateLimit").startswith('"tokens";r=7')
    assert header(said, "X-RateLimit-Limit") == "1000"
    assert header(said, "anthropic-ratelimit-tokens-limit") is None


def test_anthropics_clients_are_told_in_their_own_headers(start_guard):
    guard = start_guard(reports(10, 20), limits((2, "requests"), (1000, "tokens")))
    said = guard.exchange(chat(200), path="/v1/messages")
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    for what, quota in (("requests", "2"), ("tokens", "1000")):
        assert header(said, f"anthropic-ratelimit-{what}-limit") == quota
        assert re.fullmatch(stamp, header(said, f"anthropic-ratelimit-{what}-reset"))
    assert header(said, "anthropic-ratelimit-requests-remaining") == "1"
    guard.exchange(chat(100), path="/v1/messages")
    refused = guard.exchange(chat(100), path="/v1/messages")
    assert status(refused) == 429
    assert body(refused)["error"]["type"] == "rate_limit_error"
    assert header(refused, "anthropic-ratelimit-requests-remaining") == "0"
    assert re.fullmatch(stamp, header(refused, "anthropic-ratelimit-requests-reset"))


def test_a_plan_has_token_limits_of_its_own(start_guard):
    plan = Plan(limits=(LimitRule(name="pro", quota=Quota(5000, 3600.0, "tokens")),), max_tokens=2000)
    keys = (replace(api_key("pro", "pro-secret"), plan="pro"), api_key("free", "free-secret"))
    policy = replace(limits((300, "tokens")), auth="keys", keys=keys, plan={"pro": plan})
    guard = start_guard(reports(10, 20), policy)
    assert status(guard.exchange(chat(1500), headers="X-Api-Key: pro-secret\r\n")) == 200
    said = guard.exchange(chat(200), headers="X-Api-Key: free-secret\r\n")
    assert header(said, "x-ratelimit-limit-tokens") == "300"
    assert status(guard.exchange(chat(200, "word " * 100), headers="X-Api-Key: free-secret\r\n")) == 400


def test_the_estimator_follows_the_server(start_guard):
    guard = start_guard(reports(300, 1), limits((10**6, "input tokens"), algorithm="gcra"))
    for _ in range(40):
        guard.exchange(chat(10, "word " * 160))
    guard.settled(40)
    factor = guard.call(_factor(guard))
    assert factor == pytest.approx(300 / 205, rel=0.1)


async def _factor(guard) -> float:
    return guard.guard._core.pipeline.token_quota.corrections.factor(None)


def test_a_guard_without_token_limits_counts_none(start_guard):
    guard = start_guard(policy=Policy(auth="none"))
    assert status(guard.exchange(chat(100))) == 200
    assert guard.guard._core.pipeline.token_quota is None
