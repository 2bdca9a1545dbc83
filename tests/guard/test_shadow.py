"""What is in shadow counts, tells what it would have refused, and refuses nothing: seen from sockets."""

import asyncio
import json
import re
import threading
from dataclasses import replace

import pytest
from fastapi import FastAPI
from flask import Flask

import corral
import corral.wsgi
from asking_proxy import PROXIES, ask
from corral.guard.access_log import json_line, text_line
from corral.guard.metrics import Metrics
from corral.guard.shadow import Shadowed, logged, refusals, told
from corral.policy.authz import for_authz
from corral.policy.load import load_policy
from corral.policy.model import Concurrency, Generation, LimitRule, Log, Plan, Policy, Upstream
from corral.policy.notation import parse_quota
from running_app import Records, serve_asgi, serve_wsgi
from running_guard import CHAT, RunningGuard, answer, api_key

OPEN = Policy(auth="none", log=Log(path=""))
CHATTING = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}


def tried(quota: str, name: str = "tried", **more) -> LimitRule:
    return LimitRule(name=name, quota=parse_quota(quota), shadow=True, **more)


def forced(quota: str, name: str = "forced") -> LimitRule:
    return LimitRule(name=name, quota=parse_quota(quota))


def status(raw: bytes) -> int:
    return int(raw.split()[1])


def header(raw: bytes, name: str) -> str | None:
    found = re.search(rb"(?im)^" + name.encode() + rb": (.*?)\r$", raw.partition(b"\r\n\r\n")[0] + b"\r\n")
    return found[1].decode() if found else None


def run_together(guard, number, inside, go) -> list:
    """Have so many requests inside the server at once, then let them `go`; returns their records."""
    threads = [threading.Thread(target=guard.exchange, args=(CHATTING,)) for _ in range(number)]
    for thread in threads:
        thread.start()
        assert inside.acquire(timeout=10)
    go.set()
    for thread in threads:
        thread.join(10)
    return guard.settled(number)


def test_what_is_told_is_a_list_of_reasons_with_their_limits():
    noted = (Shadowed("quota_exceeded", "client", 11.2), Shadowed("clamped", "max_tokens"), Shadowed("overloaded"))
    assert told(noted) == b'quota_exceeded;limit="client";retry-after=12, clamped;limit="max_tokens", overloaded'
    assert logged(noted) == "quota_exceeded:client,clamped:max_tokens,overloaded"
    assert refusals(logged(noted)) == [("quota_exceeded", "client"), ("overloaded", "")]
    assert (told(()), logged(())) == (b"", "")


def test_a_limit_in_shadow_lets_all_through_and_says_so_everywhere(start_guard):
    metrics = Metrics()
    guard = start_guard(policy=replace(OPEN, limits=(tried("2/hour"), forced("100/hour"))), metrics=metrics)
    answers = [guard.exchange(CHATTING) for _ in range(4)]
    assert [status(raw) for raw in answers] == [200] * 4
    assert [header(raw, "X-Corral-Shadow") for raw in answers] == [None, None] + [
        'quota_exceeded;limit="tried";retry-after=1800'
    ] * 2
    assert header(answers[3], "RateLimit") == '"forced";r=96;t=144'
    assert header(answers[3], "RateLimit-Policy") == '"forced";q=100;w=3600'
    records = guard.settled(4)
    assert [record.shadow for record in records] == ["", "", "quota_exceeded:tried", "quota_exceeded:tried"]
    assert {record.refused for record in records} == {""}
    assert json.loads(json_line(records[3]))["shadow"] == "quota_exceeded:tried"
    assert b" shadow:quota_exceeded:tried" in text_line(records[3])
    exposed = metrics.exposition().decode()
    assert 'corral_shadow_refusals_total{limit="tried",plan="none",reason="quota_exceeded"} 2.0' in exposed


def test_limits_in_force_decide_alone_and_refuse_before_what_is_in_shadow_is_charged(start_guard):
    guard = start_guard(policy=replace(OPEN, limits=(tried("3/hour"), forced("2/hour"))))
    answers = [guard.exchange(CHATTING) for _ in range(5)]
    assert [status(raw) for raw in answers] == [200, 200, 429, 429, 429]
    assert header(answers[2], "RateLimit-Policy") == '"forced";q=2;w=3600'
    assert {record.shadow for record in guard.settled(5)} == {""}


UNITS = {
    "30 tokens/hour": "tokens_exceeded",
    "10 output tokens/hour": "tokens_exceeded",
    "0.001 usd/hour": "budget_spent",
    "1 gpu-seconds/hour": "compute_exceeded",
}


@pytest.mark.parametrize("quota", UNITS)
def test_every_unit_can_be_tried_out(start_guard, quota):
    async def costly(seen, writer):
        writer.write(answer(CHAT | {"usage": {"prompt_tokens": 20, "completion_tokens": 20},
                                    "timings": {"prompt_ms": 600.0, "predicted_ms": 600.0}}))  # fmt: skip

    policy = load_policy(
        text=f"""
        auth = "none"
        [[limits]]
        name = "tried"
        quota = "{quota}"
        shadow = true
        {'[price."*"]' if "usd" in quota else ""}
        {"input = 50" if "usd" in quota else ""}
        {"output = 50" if "usd" in quota else ""}
    """
    )
    guard = start_guard(costly, policy)
    answers = [guard.exchange(CHATTING) for _ in range(3)]
    assert [status(raw) for raw in answers] == [200] * 3
    assert [header(raw, "RateLimit") for raw in answers] == [None] * 3
    assert guard.settled(3)[2].shadow == f"{UNITS[quota]}:tried"


def test_what_runs_at_once_can_be_tried_out_and_every_hold_ends(start_guard):
    inside, go = threading.Semaphore(0), threading.Event()

    async def slow(seen, writer):
        inside.release()
        while not go.is_set():
            await asyncio.sleep(0.005)
        writer.write(answer(CHAT))

    policy = replace(OPEN, limits=(tried("1 concurrent requests", per="everyone"),))
    guard = start_guard(slow, policy)
    records = run_together(guard, 3, inside, go)
    assert sorted(record.shadow for record in records) == ["", "too_many_at_once:tried", "too_many_at_once:tried"]
    guard.exchange(CHATTING)
    assert guard.settled(4)[3].shadow == ""


def test_who_names_no_maximum_is_counted_as_if_the_limit_in_shadow_shortened_its_answer(start_guard):
    guard = start_guard(policy=replace(OPEN, limits=(tried("1000 tokens/hour"),)))
    raw = guard.exchange({"messages": [{"role": "user", "content": "hi"}]})
    assert header(raw, "X-Corral-Max-Tokens") == "2048"
    assert guard.server.seen[0].json["max_tokens"] == 2048
    assert guard.settled(1)[0].shadow == ""


WHOLE = replace(OPEN, shadow=True)


def test_a_policy_in_shadow_refuses_nothing_for_quotas_bounds_and_models(start_guard):
    policy = replace(
        WHOLE,
        auth="keys",
        keys=(replace(api_key("alice", "first"), plan="pro"),),
        plan={"pro": Plan(limits=(forced("1/hour", "pro"),), models=("llama-3",))},
        generation=Generation(max_prompt=10, max_tokens=50),
    )
    guard = start_guard(policy=policy)
    long = {"model": "mistral", "max_tokens": 60, "messages": [{"role": "user", "content": "more than ten characters"}]}
    first, second = (guard.exchange(long, headers="X-Api-Key: first\r\n") for _ in range(2))
    assert (status(first), status(second)) == (200, 200)
    assert guard.server.seen[0].json["max_tokens"] == 60
    assert header(first, "X-Corral-Max-Tokens") is None
    assert header(second, "RateLimit") is None
    beyond = "invalid_request:max_prompt,forbidden:models,clamped:max_tokens"
    assert [record.shadow for record in guard.settled(2)] == [beyond, f"quota_exceeded:pro,{beyond}"]


def test_what_a_policy_in_shadow_does_not_change_is_changed_as_little(start_guard):
    guard = start_guard(policy=WHOLE)
    assert header(guard.exchange(CHATTING), "X-Corral-Max-Tokens") == "20"
    guard.exchange({"messages": [{"role": "user", "content": "hi"}]})
    assert "max_tokens" not in guard.server.seen[1].json
    assert [record.shadow for record in guard.settled(2)] == ["", "clamped:max_tokens"]


@pytest.mark.parametrize(("sent", "path", "code"), [
    (b"{", "/v1/chat/completions", 400),
    (b"[1]", "/v1/chat/completions", 400),
    (b'{"messages": [], "temperature": 1e400}', "/v1/chat/completions", 400),
    (b'{"prompt": "hi", "grammar": "root ::= root"}', "/completion", 400),
    (b"{}", "/nowhere", 404),
    (b"{}", "/models/load", 403),
    (b'{"prompt": "' + b"x" * (1 << 20) + b'"}', "/completion", 413),
])  # fmt: skip
def test_what_cannot_be_understood_or_could_harm_is_refused_in_shadow_too(start_guard, sent, path, code):
    guard = start_guard(policy=WHOLE)
    assert status(guard.exchange(sent, path=path)) == code
    assert guard.server.seen == []


def test_a_policy_in_shadow_opens_no_door(start_guard):
    guard = start_guard(policy=replace(WHOLE, auth="keys", keys=(api_key("alice", "first"),)))
    assert status(guard.exchange(CHATTING)) == 401
    assert status(guard.exchange(CHATTING, headers="X-Api-Key: wrong\r\n")) == 401
    assert status(guard.exchange(CHATTING, headers="X-Api-Key: first\r\n")) == 200


@pytest.mark.parametrize("waiting", [0, 1])
def test_nobody_waits_for_a_place_in_shadow(start_guard, waiting):
    inside, go = threading.Semaphore(0), threading.Event()

    async def slow(seen, writer):
        inside.release()
        while not go.is_set():
            await asyncio.sleep(0.005)
        writer.write(answer(CHAT))

    policy = replace(WHOLE, limits=(), concurrency=Concurrency(max_running=1, max_waiting=waiting))
    guard = start_guard(slow, policy)
    records = run_together(guard, 4, inside, go)
    assert [record.status for record in records] == [200] * 4
    assert sorted(record.shadow for record in records) == [""] * (1 + waiting) + ["overloaded"] * (3 - waiting)
    assert (guard.guard.running, guard.guard.waiting) == (0, 0)
    assert status(guard.exchange(CHATTING)) == 200


def test_beyond_the_servers_connections_the_queue_is_real(start_guard):
    go = threading.Event()

    async def slow(seen, writer):
        while not go.is_set():
            await asyncio.sleep(0.005)
        writer.write(answer(CHAT))

    policy = replace(WHOLE, limits=(), concurrency=Concurrency(max_running=1, max_waiting=0),
                     upstream=Upstream(max_connections=2))  # fmt: skip
    guard = start_guard(slow, policy)
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda: answers.append(guard.exchange(CHATTING))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert guard.settled(1)[0].refused == "overloaded"
    go.set()
    for thread in threads:
        thread.join(10)
    assert sorted(map(status, answers)) == [200, 200, 503]


def application(policy: Policy, records: Records) -> FastAPI:
    app = FastAPI()
    app.add_middleware(corral.Guard, policy=policy, records=records)

    @app.post("/completion")
    def complete(body: dict) -> dict:
        return {"content": "", "body": body}

    @app.get("/hello")
    @corral.limit("1/hour", name="hello", shadow=True)
    def hello() -> dict:
        return {}

    return app


def test_an_applications_guard_tries_limits_out_too():
    records = Records()
    with serve_asgi(application(replace(OPEN, limits=(tried("1/hour"),)), records)) as client:
        replies = [client.post({"prompt": "hi", "n_predict": 5}) for _ in range(2)]
        own = [client.get("/hello") for _ in range(2)]
    assert [reply.status for reply in (*replies, *own)] == [200] * 4
    assert replies[1].header("X-Corral-Shadow") == 'quota_exceeded;limit="tried";retry-after=3600'
    assert own[1].header("X-Corral-Shadow") == (
        'quota_exceeded;limit="tried";retry-after=3600, quota_exceeded;limit="hello";retry-after=3600'
    )
    assert [record.shadow for record in records] == [
        "", "quota_exceeded:tried", "quota_exceeded:tried", "quota_exceeded:tried,quota_exceeded:hello",
    ]  # fmt: skip


def test_an_application_in_shadow_gets_what_its_clients_wrote():
    records = Records()
    with serve_asgi(application(replace(WHOLE, concurrency=Concurrency(max_running=1)), records)) as client:
        reply = client.post({"prompt": "hi", "n_predict": 5000})
    assert reply.json["body"]["n_predict"] == 5000
    assert records[0].shadow == "clamped:max_tokens"


def test_a_flask_application_in_shadow_keeps_nobody_waiting():
    inside, go, records = threading.Semaphore(0), threading.Event(), Records()
    app = Flask("service")
    policy = replace(WHOLE, limits=(), concurrency=Concurrency(max_running=1, max_waiting=0))
    app.wsgi_app = corral.wsgi.Guard(app.wsgi_app, policy, records=records)

    @app.post("/completion")
    def complete() -> dict:
        inside.release()
        assert go.wait(10)
        return {"content": ""}

    body = {"prompt": "hi", "n_predict": 5}
    with serve_wsgi(app) as client:
        threads = [threading.Thread(target=client.post, args=(body,)) for _ in range(2)]
        for thread in threads:
            thread.start()
            assert inside.acquire(timeout=10)
        go.set()
        for thread in threads:
            thread.join(10)
    assert sorted((record.status, record.shadow) for record in records) == [(200, ""), (200, "overloaded")]


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("whole", [False, True])
def test_proxies_are_told_too(start_guard, proxy, whole):
    limit = forced("1/hour", "tried") if whole else tried("1/hour")
    guard = start_guard(policy=for_authz(replace(Policy(auth="none"), limits=(limit,), shadow=whole)), authz=True)
    first, second = ask(guard, proxy), ask(guard, proxy)
    assert (first.status, second.status) == (200, 200)
    assert first.fields.get("x-corral-shadow") is None
    assert second.fields["x-corral-shadow"] == 'quota_exceeded;limit="tried";retry-after=3600'
    assert "ratelimit" not in second.fields
    assert [record.shadow for record in guard.settled(2)] == ["", "quota_exceeded:tried"]


def reload(guard: RunningGuard, policy: Policy) -> None:
    now = guard.guard.policy
    guard.call(guard.guard.reload(replace(policy, listen=now.listen, upstream=now.upstream)))


@pytest.mark.parametrize("whole", [False, True])
def test_what_was_counted_in_shadow_is_in_force_once_it_is_reloaded_and_back(start_guard, whole):
    limit = forced("2/hour", "tried")
    shadow = replace(OPEN, limits=(limit,), shadow=True) if whole else replace(OPEN, limits=(tried("2/hour"),))
    guard = start_guard(policy=shadow)
    assert [status(guard.exchange(CHATTING)) for _ in range(3)] == [200] * 3
    reload(guard, replace(OPEN, limits=(limit,)))
    assert status(guard.exchange(CHATTING)) == 429
    reload(guard, shadow)
    assert status(guard.exchange(CHATTING)) == 200
    after = ["quota_exceeded:tried"]
    assert [record.shadow for record in guard.settled(5)] == ["", "", *after, "", *after]


def test_who_runs_in_shadow_without_a_place_runs_on_when_the_queue_is_in_force(start_guard):
    inside, go = threading.Semaphore(0), threading.Event()

    async def slow(seen, writer):
        inside.release()
        while not go.is_set():
            await asyncio.sleep(0.005)
        writer.write(answer(CHAT))

    policy = replace(WHOLE, limits=(), concurrency=Concurrency(max_running=1, max_waiting=1, max_wait=0.1))
    guard = start_guard(slow, policy)
    threads = [threading.Thread(target=guard.exchange, args=(CHATTING,)) for _ in range(2)]
    for thread in threads:
        thread.start()
        assert inside.acquire(timeout=10)
    reload(guard, replace(policy, shadow=False))
    assert status(guard.exchange(CHATTING)) == 503  # it has waited for longer than may be
    go.set()
    for thread in threads:
        thread.join(10)
    records = guard.settled(3)
    assert sorted((record.status, record.refused) for record in records) == [(200, ""), (200, ""), (503, "overloaded")]
    assert (guard.guard.running, guard.guard.waiting) == (0, 0)
