"""Prompts that the server counts for limits that want them exact: held exactly, bounded, and no request lost by it."""

import asyncio
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from corral.dialects import dialect
from corral.errors import PolicyError
from corral.guard.gateway import count
from corral.guard.metrics import Metrics
from corral.policy.load import load_policy
from corral.policy.model import Concurrency, Generation, LimitRule, Policy, Price, Quota, Upstream
from corral.policy.unit_rules import COUNTING
from running_guard import answer, post, read_all

COUNTER = "POST /v1/chat/completions/input_tokens HTTP/1.1"


def policy(amount=1000, unit="input tokens", requests=1000, **more) -> Policy:
    rules = (
        LimitRule(name="requests", quota=Quota(requests, 3600.0), algorithm="window"),
        LimitRule(name="exact", quota=Quota(amount, 3600.0, unit), algorithm="window", exact=True),
    )
    return Policy(auth="none", limits=rules, generation=Generation(max_tokens=200), **more)


def counts(tokens, *, used: int | None = None, gate: threading.Event | None = None):
    """A server that counts `tokens`: a number, bytes of an answer, or what makes either from the question."""

    async def handler(seen, writer):
        if not seen.line.startswith(COUNTER):
            writer.write(answer({"choices": [], "usage": {"prompt_tokens": used or 7, "completion_tokens": 1}}))
            return
        while gate is not None and not gate.is_set():
            await asyncio.sleep(0.005)
        said = tokens(seen) if callable(tokens) else tokens
        writer.write(said if isinstance(said, bytes) else answer({"input_tokens": said}))

    return handler


def status(said: bytes) -> int:
    return int(said.split()[1])


def chat(text="hi", most=10, **more):
    return {"messages": [{"role": "user", "content": text}], "max_tokens": most, **more}


def left(guard) -> dict[str, int]:
    return guard.call(_left(guard))


async def _left(guard) -> dict[str, int]:
    pipeline = guard.guard._core.pipeline
    caller = pipeline._callers.admit("127.0.0.1", None)
    now = guard.loop.time()
    standings = [*pipeline.store.peek(caller.limits, now), *pipeline.store.peek(caller.token_limits, now)]
    return {standing.name: standing.remaining for standing in standings}


def outcomes(guard) -> dict[str, int]:
    return {name: number for name, number in guard.guard._core.counting.outcomes.items() if number}


def held(guard) -> int:
    return guard.guard._core.pipeline.store.held


def asked(guard) -> int:
    return sum(seen.line == COUNTER for seen in guard.server.seen)


def until(condition, timeout=10.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_prompt_is_held_as_the_server_counts_it(start_guard):
    holding = threading.Event()
    release = threading.Event()

    async def handler(seen, writer):
        if seen.line == COUNTER:
            writer.write(answer({"input_tokens": 321}))
            return
        holding.set()
        while not release.is_set():
            await asyncio.sleep(0.005)
        writer.write(answer({"choices": [], "usage": {"prompt_tokens": 321, "completion_tokens": 4}}))

    guard = start_guard(handler, policy(unit="tokens"))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(guard.exchange, chat())
        assert holding.wait(10)
        assert left(guard)["exact"] == 1000 - 321 - 10
        release.set()
        said = waiting.result(10)
    assert status(said) == 200
    guard.settled(1)
    assert left(guard) == {"requests": 999, "exact": 1000 - 325}
    assert (held(guard), outcomes(guard)) == (0, {"counted": 1})
    question = guard.server.seen[0]
    assert question.json["messages"] == chat()["messages"]


def test_what_fits_by_the_count_is_let_in_whatever_was_estimated(start_guard):
    guard = start_guard(counts(90, used=90), policy(100))
    assert status(guard.exchange(chat("word " * 1000))) == 200
    guard.settled(1)
    assert left(guard)["exact"] == 10


def test_what_does_not_fit_by_the_count_is_refused_and_holds_nothing(start_guard):
    guard = start_guard(counts(lambda seen: 80 if b"first" in seen.body else 30, used=80), policy(100))
    assert status(guard.exchange(chat("first"))) == 200
    said = guard.exchange(chat("second"))
    assert status(said) == 429
    assert b"tokens_exceeded" in said or b"tokens" in said
    assert b"Requested 30" in said
    assert b"Used 80" in said
    records = guard.settled(2)
    assert (records[1].refused, records[1].limit, records[1].ending) == ("tokens_exceeded", "exact", "refused")
    assert left(guard)["exact"] == 20
    assert (held(guard), guard.guard.running) == (0, 0)


def test_a_prompt_that_is_longer_than_the_quota_can_never_fit(start_guard):
    guard = start_guard(counts(500), policy(100))
    said = guard.exchange(chat())
    assert status(said) == 400
    assert b"can never fit" in said
    guard.settled(1)
    assert (held(guard), left(guard)["exact"]) == (0, 100)


def test_nothing_is_said_of_what_would_fit_before_the_prompt_is_counted(start_guard):
    guard = start_guard(counts(80, used=80), policy(100, unit="tokens"))
    said = guard.exchange(chat(most=150))
    assert status(said) == 400
    assert b"(at least 1 for the prompt, 150 for the answer). Ask for shorter answers." in said
    assert status(guard.exchange(chat(most=10))) == 200
    guard.settled(2)
    said = guard.exchange(chat(most=30))
    assert status(said) == 429
    assert b"ask for at most" not in said


def test_what_would_fit_is_said_once_the_prompt_is_counted(start_guard):
    guard = start_guard(counts(60), policy(100, unit="tokens"))
    said = guard.exchange(chat(most=90))
    assert status(said) == 400
    assert b"Ask for at most 40 tokens an answer" in said
    assert status(guard.exchange(chat(most=40))) == 200


def test_an_answer_without_a_maximum_gets_what_the_counted_prompt_leaves(start_guard):
    guard = start_guard(counts(60), policy(100, unit="tokens"))
    body = chat()
    del body["max_tokens"]
    said = guard.exchange(body)
    assert status(said) == 200
    assert re.search(rb"X-Corral-Max-Tokens: 40\r\n", said)
    assert guard.server.seen[-1].json["max_tokens"] == 40


def test_money_is_held_by_the_count(start_guard):
    wallet = replace(policy(5_000, unit="cost"), price={"*": Price(input=1.0, output=1.0)})
    guard = start_guard(counts(4_000), wallet)
    assert status(guard.exchange(chat())) == 200
    guard = start_guard(counts(4_995), wallet)
    assert status(guard.exchange(chat())) == 400


WRONG = {
    "no number": answer({"input_tokens": "12"}),
    "a truth": answer({"input_tokens": True}),
    "negative": answer({"input_tokens": -1}),
    "absurd": answer({"input_tokens": 10**12}),
    "another answer": answer({"tokens": []}),
    "a list": answer(b"[1]"),
    "no JSON": answer(b"{"),
    "an error": answer({"input_tokens": 3}, "500 Internal Server Error"),
    "a missing route": answer({"error": {}}, "404 Not Found"),
    "a huge answer": answer(b'{"input_tokens": 3' + b" " * 200_000 + b"}"),
    "no HTTP": b"nonsense\r\n\r\n",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_no_count_and_the_prompt_is_estimated(start_guard, name):
    guard = start_guard(counts(WRONG[name], used=9), policy())
    assert status(guard.exchange(chat())) == 200
    guard.settled(1)
    assert (outcomes(guard), left(guard)["exact"], held(guard)) == ({"failed": 1}, 991, 0)


def test_an_estimate_in_place_of_a_count_is_held_too(start_guard):
    guard = start_guard(counts(WRONG["no JSON"]), policy(100))
    assert status(guard.exchange(chat("word " * 1000))) == 400
    guard.settled(1)
    assert held(guard) == 0


def test_a_server_that_closes_instead_of_counting_is_no_reason_to_refuse(start_guard):
    async def handler(seen, writer):
        if seen.line == COUNTER:
            writer.close()
            return
        writer.write(answer({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}))

    guard = start_guard(handler, policy())
    assert status(guard.exchange(chat())) == 200
    guard.settled(1)
    assert (outcomes(guard), left(guard)["exact"]) == ({"failed": 1}, 991)


def test_a_server_that_counts_too_slowly_is_not_waited_for(start_guard, monkeypatch):
    monkeypatch.setattr(count, "_PATIENCE", 0.1)
    guard = start_guard(counts(3, used=9, gate=threading.Event()), policy())
    assert status(guard.exchange(chat())) == 200
    guard.settled(1)
    assert (outcomes(guard), left(guard)["exact"], held(guard)) == ({"late": 1}, 991, 0)
    until(guard.server.gone.is_set)


def test_a_prompt_is_counted_once_while_it_is_remembered(start_guard):
    guard = start_guard(counts(5), policy())
    for _ in range(3):
        assert status(guard.exchange(chat())) == 200
    assert status(guard.exchange(chat("other"))) == 200
    guard.settled(4)
    assert (asked(guard), outcomes(guard)) == (2, {"counted": 2, "known": 2})


def test_what_is_remembered_is_bounded(start_guard, monkeypatch):
    monkeypatch.setattr(count, "_REMEMBERED", 3)
    guard = start_guard(counts(5), policy())
    for number in range(6):
        guard.exchange(chat(f"number {number}"))
    assert len(guard.guard._core.counting._known) == 3


def test_so_many_are_counted_at_once_and_so_many_wait(start_guard, monkeypatch):
    monkeypatch.setattr(count, "_WAITING", 3)
    monkeypatch.setattr(count, "_PATIENCE", 60.0)
    gate = threading.Event()
    guard = start_guard(counts(5, gate=gate), policy(100_000))
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(guard.exchange, chat(f"number {number}")) for number in range(8)]
        until(lambda: outcomes(guard) == {"crowded": 8 - count.AT_ONCE - 3})
        assert asked(guard) == count.AT_ONCE
        gate.set()
        assert [status(waited.result(10)) for waited in waiting] == [200] * 8
    guard.settled(8)
    assert outcomes(guard) == {"crowded": 3, "counted": 5}
    assert held(guard) == 0


@pytest.mark.parametrize("when", ["running", "waiting"])
def test_a_client_that_leaves_while_it_is_counted_gives_everything_back(start_guard, monkeypatch, when):
    monkeypatch.setattr(count, "_PATIENCE", 60.0)
    gate = threading.Event()
    guard = start_guard(counts(5, gate=gate), policy())
    clients = [guard.connect() for _ in range(count.AT_ONCE if when == "running" else count.AT_ONCE + 1)]
    for number, client in enumerate(clients):
        client.sendall(post(chat(f"number {number}")))
        until(lambda most=number: held(guard) and len(_counts(guard)) == most + 1)
    clients.pop().close()
    guard.settled(1)
    assert guard.records[0].ending == "client-left"
    assert outcomes(guard) == {"left": 1}
    assert len(_counts(guard)) == len(clients)
    for client in clients:
        client.close()
    guard.settled(count.AT_ONCE if when == "running" else count.AT_ONCE + 1)
    assert (held(guard), left(guard)["exact"], guard.guard.running, _counts(guard)) == (0, 1000, 0, [])
    gate.set()
    assert status(guard.exchange(chat())) == 200


def _counts(guard) -> list:
    counting = guard.guard._core.counting
    return [*counting._running, *counting._waiting]


def test_counts_race_clients_that_leave_and_nothing_stays_held(start_guard):
    guard = start_guard(counts(5), policy(10**9, requests=10**6))

    def come_and_go(number: int) -> None:
        with guard.connect() as client:
            client.sendall(post(chat(f"number {number}")))
            if number % 3 == 0:
                client.recv(1)
            time.sleep(number % 7 / 1000)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(come_and_go, range(200)))
    guard.settled(200)
    until(lambda: not _counts(guard))
    assert (held(guard), guard.guard.running, guard.guard.waiting) == (0, 0, 0)


def test_no_more_is_counted_than_a_client_may_ask(start_guard):
    guard = start_guard(counts(95, used=95), policy(100, requests=5))
    said = [status(guard.exchange(chat(f"number {number}"))) for number in range(12)]
    assert said == [200] + [429] * 11
    assert asked(guard) == 5
    assert left(guard) == {"requests": 0, "exact": 5}


def test_a_refused_prompt_that_was_counted_before_costs_no_request(start_guard):
    guard = start_guard(counts(95, used=95), policy(100, requests=5))
    assert [status(guard.exchange(chat())) for _ in range(12)] == [200] + [429] * 11
    assert (asked(guard), left(guard)) == (1, {"requests": 4, "exact": 5})


def test_no_connection_is_counted_with_that_a_place_may_need(start_guard):
    narrow = policy(concurrency=Concurrency(max_running=2), upstream=Upstream(max_connections=4))
    gate = threading.Event()
    guard = start_guard(counts(5, gate=gate), narrow)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(guard.exchange, chat(f"number {number}")) for number in range(4)]
        until(lambda: len(_counts(guard)) == 4)
        until(lambda: asked(guard) == 1)
        gate.set()
        assert [status(waited.result(10)) for waited in waiting] == [200] * 4


def test_what_cannot_be_asked_for_is_estimated(start_guard):
    many = replace(policy(), generation=Generation(max_tokens=20, max_choices=2))
    guard = start_guard(counts(5, used=9), many)
    assert status(guard.exchange({"prompt": ["a", "b"], "max_tokens": 5}, path="/v1/completions")) == 200
    assert status(guard.exchange({"input": "a"}, path="/v1/embeddings")) == 200
    guard.settled(2)
    assert outcomes(guard) == {"unasked": 1}


def test_a_text_is_counted_by_its_tokens(start_guard):
    async def handler(seen, writer):
        if seen.line.startswith("POST /tokenize "):
            writer.write(answer({"tokens": list(range(100_000, 100_700))}))
        else:
            writer.write(answer({"tokens_evaluated": 700, "tokens_predicted": 1}))

    guard = start_guard(handler, policy())
    assert status(guard.exchange({"prompt": "word " * 400, "n_predict": 5}, path="/completion")) == 200
    guard.settled(1)
    assert (outcomes(guard), left(guard)["exact"]) == ({"counted": 1}, 300)
    assert guard.server.seen[0].json == {"content": "word " * 400, "add_special": True, "parse_special": True}


def test_vllm_counts_chats_and_texts(start_guard):
    async def handler(seen, writer):
        if seen.line.startswith("POST /tokenize "):
            writer.write(answer({"count": 12, "max_model_len": 4096, "tokens": list(range(12)), "token_strs": None}))
        else:
            writer.write(answer({"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 1}}))

    guard = start_guard(handler, policy(upstream=Upstream(dialect="openai")))
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert status(guard.exchange(chat(model="m", tools=[tool], temperature=0.5))) == 200
    assert status(guard.exchange({"model": "m", "prompt": "a", "max_tokens": 5}, path="/v1/completions")) == 200
    assert outcomes(guard) == {"counted": 2}
    questions = [seen.json for seen in guard.server.seen if seen.line.startswith("POST /tokenize ")]
    assert questions == [
        {"model": "m", "messages": chat()["messages"], "tools": [tool]},
        {"model": "m", "prompt": "a", "add_special_tokens": True},
    ]


def test_nothing_is_counted_where_no_limit_is_exact(start_guard):
    rules = tuple(replace(rule, exact=False) for rule in policy().limits)
    guard = start_guard(counts(5), replace(policy(), limits=rules))
    assert status(guard.exchange(chat())) == 200
    assert (asked(guard), outcomes(guard)) == (0, {})


def test_the_servers_key_goes_with_the_question_and_the_clients_does_not(start_guard):
    guard = start_guard(counts(5), policy(upstream=Upstream(api_key="own")))
    guard.exchange(chat(), headers="Authorization: Bearer clients\r\n")
    assert guard.server.seen[0].head["authorization"] == "bearer own"


def test_counts_are_shown_by_what_became_of_them(start_guard):
    metrics = Metrics()
    guard = start_guard(counts(5), policy(), metrics)
    guard.exchange(chat())
    shown = guard.call(_exposition(metrics))
    assert 'corral_prompt_counts_total{outcome="counted"} 1.0' in shown
    assert 'corral_prompt_counts_total{outcome="late"} 0.0' in shown


async def _exposition(metrics: Metrics) -> str:
    return metrics.exposition().decode()


def test_a_pipelined_request_waits_for_the_one_that_is_counted(start_guard):
    guard = start_guard(counts(5), policy())
    with guard.connect() as client:
        client.sendall(post(chat("one")) + post(chat("two"), headers="Connection: close\r\n"))
        said = read_all(client)
    assert said.count(b"HTTP/1.1 200 ") == 2


def test_a_prompt_that_is_counted_over_a_reload_is_held_where_it_counts_now(start_guard):
    gate = threading.Event()
    guard = start_guard(counts(300, used=300, gate=gate), policy(1000))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(guard.exchange, chat())
        until(lambda: asked(guard) == 1)
        now = guard.guard.policy
        wider = tuple(
            replace(rule, quota=replace(rule.quota, amount=2000)) if rule.exact else rule for rule in now.limits
        )
        guard.call(guard.guard.reload(replace(now, limits=wider)))
        gate.set()
        assert status(waiting.result(10)) == 200
    guard.settled(1)
    assert (left(guard)["exact"], held(guard), outcomes(guard)) == (1700, 0, {"counted": 1})


def test_an_exact_limit_in_shadow_tells_what_the_count_would_have_refused(start_guard):
    rules = tuple(replace(rule, shadow=rule.exact) for rule in policy(100).limits)
    guard = start_guard(counts(80, used=80), replace(policy(), limits=rules))
    first, second = guard.exchange(chat("one")), guard.exchange(chat("two"))
    assert (status(first), status(second)) == (200, 200)
    assert b"X-Corral-Shadow" not in first
    assert b"X-Corral-Shadow: " in second
    guard.settled(2)
    assert (left(guard)["exact"], held(guard)) == (20, 0)


def limit(quota: str, rest: str = "") -> str:
    return f'[[limits]]\nname = "a"\nquota = "{quota}"\nexact = true\n{rest}'


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (limit("30/minute"), r"limits\[0\].exact: prompts are counted for tokens"),
        (limit("300 output tokens/minute"), "this limit counts output tokens; remove it"),
        (limit("4 concurrent requests"), "counts concurrent requests"),
        (limit("600 gpu-seconds/hour"), "counts gpu-seconds"),
        (limit("300 tokens/minute", '[upstream]\ndialect = "ollama"'), "ollama has no route that counts a prompt"),
        (
            limit("300 tokens/minute", "[upstream]\nmax_connections = 5\n[concurrency]\nmax_running = 4"),
            "upstream.max_connections: .*write 6 or more",
        ),
    ],
)
def test_an_exact_limit_that_cannot_be_is_an_error(text, wrong):
    with pytest.raises(PolicyError, match=wrong):
        load_policy(text=text)


def test_the_policy_knows_which_dialects_count():
    for name in ("llamacpp", "openai", "ollama"):
        counted = any(route.counter is not None for _, _, route in dialect(name).routes())
        assert counted == (name in COUNTING)


def test_no_count_is_made_of_what_is_none():
    counter = dialect("llamacpp").match(b"POST", b"/completion").counter
    assert counter.question(json.dumps({"prompt": {"prompt_string": "a"}}).encode()) is None
    assert counter.question(json.dumps({"prompt": [[1, 2], [3]]}).encode()) is None
    assert json.loads(counter.question(json.dumps({"prompt": [5, "a"]}).encode()))["content"] == [5, "a"]
    assert json.loads(counter.question(json.dumps({"prompt": ["a"]}).encode()))["content"] == "a"
