"""Limits on what runs at once, on computing time and on money, seen from sockets and through the pipeline."""

import asyncio
import re
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.guard.test_partitions import Door
from tests.guard.test_token_quota import body, chat, header, held, reports, status, until

import corral
from corral.dialects.model import Usage
from corral.guard.caller import Visit
from corral.guard.quota_headers import policy_header
from corral.guard.refusal import Refusal
from corral.policy.load import load_policy
from corral.policy.model import Concurrency, LimitRule, Policy
from corral.policy.notation import parse_quota
from running_guard import CHAT, answer, post

PRICES = '[price."*"]\ninput = 1\noutput = 10\n'


def limits(*quotas: str, per="client", rest="") -> Policy:
    text = 'auth = "none"\n[generation]\nmax_tokens = 200\n'
    for quota in quotas:
        name = re.sub(r"[^a-z]+", "-", quota).strip("-")
        text += f'[[limits]]\nname = "{name}"\nquota = "{quota}"\nper = "{per}"\n'
    return load_policy(text=text + rest)


def left(guard) -> dict[str, int]:
    async def look() -> dict[str, int]:
        pipeline = guard.guard._core.pipeline
        caller = pipeline._callers.admit("127.0.0.1", None)
        standings = pipeline._store.peek(caller.token_limits, guard.loop.time())
        return {standing.name: standing.remaining for standing in standings}

    return guard.call(look())


# at once


class Gate:
    """A server that answers when it is told to."""

    def __init__(self) -> None:
        self.open = threading.Event()

    async def __call__(self, seen, writer) -> None:
        while not self.open.is_set():
            await asyncio.sleep(0.005)
        writer.write(answer({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}))


def send_off(guard, count: int) -> list[threading.Thread]:
    threads = [threading.Thread(target=guard.exchange, args=(chat(5),), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_no_more_run_or_wait_than_may_and_the_next_is_told_no_time(start_guard):
    gate = Gate()
    guard = start_guard(gate, replace(limits("3 concurrent requests"), concurrency=Concurrency(max_running=1)))
    threads = send_off(guard, 3)
    until(lambda: guard.guard.running + guard.guard.waiting == 3)
    said = guard.exchange(chat(5))
    assert status(said) == 429
    error = body(said)["error"]
    assert error["violated-policies"] == ["concurrent-requests"]
    assert "3 concurrent requests" in error["message"]
    assert "when one has ended" in error["message"]
    assert header(said, "RateLimit-Policy") == '"concurrent-requests";q=3;qu="concurrent-requests"'
    assert header(said, "RateLimit") == '"concurrent-requests";r=0'
    assert header(said, "X-RateLimit-Reset") is None
    assert header(said, "x-ratelimit-limit-requests") is None
    assert 1 <= int(header(said, "Retry-After")) <= 10
    gate.open.set()
    for thread in threads:
        thread.join(10)
    guard.settled(4)
    assert held(guard) == 0
    assert status(guard.exchange(chat(5))) == 200


def test_a_limit_on_what_runs_at_once_hides_none_that_has_a_time(start_guard):
    guard = start_guard(reports(3, 5), limits("1 concurrent requests", "600 gpu-seconds/day"))
    said = guard.exchange(chat(5))
    assert '"concurrent-requests";q=1' in header(said, "RateLimit-Policy")
    assert header(said, "RateLimit").startswith('"gpu-seconds-day";r=')
    assert header(said, "X-RateLimit-Limit") == "600"
    guard = start_guard(reports(3, 5), limits("1 concurrent requests", "30/minute"))
    said = guard.exchange(chat(5))
    assert re.fullmatch(r'"minute";r=29;t=\d+', header(said, "RateLimit"))
    guard = start_guard(reports(3, 5), limits("1 concurrent requests"))
    assert header(guard.exchange(chat(5)), "RateLimit") == '"concurrent-requests";r=0'


def test_a_client_that_leaves_frees_what_it_held_running_or_waiting(start_guard):
    guard = start_guard(Gate(), replace(limits("2 concurrent requests"), concurrency=Concurrency(max_running=1)))
    clients = []
    for _ in range(2):
        client = guard.connect()
        client.sendall(post(chat(5)))
        clients.append(client)
    until(lambda: guard.guard.running + guard.guard.waiting == 2)
    assert status(guard.exchange(chat(5))) == 429
    for client in clients:
        client.close()
    guard.settled(3)
    until(lambda: held(guard) == 0)


def test_a_place_that_is_refused_frees_it_too(start_guard):
    guard = start_guard(Gate(), replace(limits("9 concurrent requests"), concurrency=Concurrency(max_running=1, max_waiting=0)))  # fmt: skip
    send_off(guard, 1)
    until(lambda: guard.guard.running == 1)
    assert status(guard.exchange(chat(5))) == 503
    assert left(guard) == {"concurrent-requests": 8}
    guard.server.handler.open.set()
    guard.settled(2)
    until(lambda: held(guard) == 0)


@pytest.mark.parametrize(
    "handler", [reports(3, 5), reports(None, None), reports(3, 5, "500 Oops"), reports(1, 1, "400 No")]
)
def test_every_answer_of_the_server_frees_it(start_guard, handler):
    guard = start_guard(handler, limits("1 concurrent requests"))
    for number in range(3):
        assert status(guard.exchange(chat(5))) != 429
        guard.settled(number + 1)
    assert held(guard) == 0


# computing time


def test_a_refusal_for_computing_time_says_so_and_what_is_owed(start_guard):
    guard = start_guard(computes(3500.0), limits("2 gpu-seconds/hour"))
    assert status(guard.exchange(chat(20))) == 200
    guard.settled(1)
    said = guard.exchange(chat(20))
    error = body(said)["error"]
    assert (status(said), error["type"], error["code"]) == (429, "gpu-seconds", "rate_limit_exceeded")
    assert re.search(r"Limit 2, 1\.\d{3} more than that are used and come back first, ", error["message"])


def computes(milliseconds: float | None):
    async def handler(seen, writer):
        said = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 20}}
        if milliseconds is not None:
            said["timings"] = {"prompt_ms": milliseconds / 4, "predicted_ms": milliseconds * 3 / 4}
        writer.write(answer(said))

    return handler


def test_the_servers_computing_time_is_charged(start_guard):
    guard = start_guard(computes(1500.0), limits("600 gpu-seconds/day"))
    said = guard.exchange(chat(20))
    assert status(said) == 200
    assert re.fullmatch(r'"gpu-seconds-day";r=59\d;t=\d+', header(said, "RateLimit"))
    assert header(said, "X-RateLimit-Limit") == "600"
    guard.settled(1)
    assert left(guard)["gpu-seconds-day"] == pytest.approx(598_500, abs=100)
    assert held(guard) == 0


def test_time_that_is_not_reported_is_charged_as_estimated(start_guard):
    guard = start_guard(computes(None), limits("600 gpu-seconds/day"))
    assert status(guard.exchange(chat(100))) == 200
    guard.settled(1)
    assert 600_000 - left(guard)["gpu-seconds-day"] >= 100 * 30


def test_the_estimate_learns_and_never_keeps_a_request_from_an_unused_quota(start_guard):
    guard = start_guard(computes(40.0), limits("2 gpu-seconds/day"))
    answers = []
    for number in range(5):
        answers.append(guard.exchange(chat(100)))
        guard.settled(number + 1)
    assert status(answers[0]) == 200
    refused = [said for said in answers if status(said) == 429]
    assert refused
    error = body(refused[0])["error"]
    assert "on gpu-seconds in 86400 seconds" in error["message"]
    assert header(refused[0], "X-RateLimit-Limit") == "2"


# money


def test_money_is_charged_to_the_millionth_and_told_when_it_is_spent(start_guard):
    guard = start_guard(reports(30, 100), limits("0.002 usd/day", per="global", rest=PRICES))
    assert status(guard.exchange(chat(100))) == 200
    guard.settled(1)
    assert left(guard) == {"usd-day": 2000 - 30 - 1000}
    said = guard.exchange(chat(150))
    assert status(said) == 429
    error = body(said)["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert "0.00097 usd are left" in error["message"]
    assert status(guard.exchange(chat(90))) == 200
    guard.settled(3)
    said = guard.exchange(chat(1, text="x"))
    assert status(said) == 429
    assert re.search(
        r'The budget "usd-day" of all clients, 0.002 usd per day, is spent\. It begins anew with the next day \(UTC\), in ',
        body(said)["error"]["message"],
    )
    now = datetime.now(UTC)
    to_midnight = 86_400 - (now.hour * 3600 + now.minute * 60 + now.second)
    assert abs(int(header(said, "Retry-After")) - to_midnight) % 86_400 < 60
    assert header(said, "RateLimit-Policy") == '"usd-day";q=2000;w=86400'
    assert header(said, "X-RateLimit-Remaining") == "0"
    assert status(guard.send(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")) == 200


def test_every_name_of_a_model_of_ollamas_has_its_price_and_its_limits(start_guard):
    async def handle(seen, writer):
        asked.append(seen.json["model"])
        writer.write(answer({**CHAT, "usage": {"prompt_tokens": 1000, "completion_tokens": 0}}))

    asked: list[str] = []
    policy = load_policy(text="""
        [upstream]
        dialect = "ollama"
        [[limits]]
        name = "wallet"
        quota = "1000 usd/day"
        [[limits]]
        name = "each"
        quota = "4/hour"
        per = "model"
        [price."big"]
        input = 1000000
        output = 0
        [price."*"]
        input = 0
        output = 0
    """)  # fmt: skip
    names = ["big", "Big:latest", "library/big"]
    guard = start_guard(handle, policy=replace(policy, auth="none"))
    assert [status(guard.exchange({**chat(), "model": name})) for name in names] == [200, 429, 429]
    assert asked == ["big"]
    guard = start_guard(handle, policy=replace(policy, auth="none", limits=policy.limits[1:]))
    assert [status(guard.exchange({**chat(), "model": name})) for name in [*names, "big", " BIG "]] == [200] * 4 + [429]
    assert asked == ["big", *names, "big"]  # as it was written


def test_a_request_that_costs_more_than_the_whole_budget_is_told_what_it_can_have(start_guard):
    guard = start_guard(reports(3, 5), limits("0.001 usd/day", rest=PRICES))
    said = guard.exchange(chat(150))
    assert status(said) == 400
    assert "can never fit: Limit 0.001 cost" in body(said)["error"]["message"]
    assert re.search(r"Ask for at most 9\d tokens", body(said)["error"]["message"])
    assert status(guard.exchange(chat())) == 200
    assert 90 <= guard.server.seen[-1].json["max_tokens"] <= 99


def test_all_kinds_at_once_are_all_or_nothing_and_the_tightest_is_told():
    policy = limits("100/minute", "5000 tokens/hour", "2 concurrent requests", "60 gpu-seconds/hour", "0.01 usd/month", rest=PRICES)  # fmt: skip
    door = Door(policy)
    first, second = door.ask(), door.ask()
    assert isinstance(first, Visit)
    assert isinstance(second, Visit)
    assert first.tokens.other.name == "usd-month"  # of those that have a time
    refused = door.ask()
    assert isinstance(refused, Refusal)
    quota = door.pipeline.token_quota
    for visit in (first, second):
        quota.settle(visit.tokens, Usage(10, 20, 500.0), door.now)
        door.pipeline.give_back(visit, door.now)
        quota.settle(visit.tokens, Usage(10, 20, 500.0), door.now)
    caller = door.pipeline._callers.admit("10.0.0.1", None)
    standings = [*door.store.peek(caller.limits, door.now), *door.store.peek(caller.token_limits, door.now)]
    assert [standing.remaining for standing in standings] == [100, 5000 - 60, 2, 59_000, 10_000 - 420]
    assert door.store.held == 0


def test_a_cut_answer_is_charged_the_time_that_it_held():
    door = Door(limits("60 gpu-seconds/hour"))
    visit = door.ask()
    held_before = visit.tokens.compute
    door.pipeline.token_quota.settle(visit.tokens, Usage(10, None, 5.0), door.now)
    caller = door.pipeline._callers.admit("10.0.0.1", None)
    assert door.store.peek(caller.token_limits, door.now)[0].remaining == 60_000 - held_before


@pytest.mark.parametrize("measured", [float("nan"), float("inf"), -5.0, 1e300])
def test_nonsense_times_are_not_believed(measured):
    door = Door(limits("60 gpu-seconds/hour"))
    visit = door.ask()
    held_before = visit.tokens.compute
    door.pipeline.token_quota.settle(visit.tokens, Usage(10, 20, measured), door.now)
    caller = door.pipeline._callers.admit("10.0.0.1", None)
    assert door.store.peek(caller.token_limits, door.now)[0].remaining == 60_000 - held_before


def test_a_handler_cannot_count_them():
    with pytest.raises(corral.CorralError, match="concurrent requests cannot be counted by a handler"):
        corral.Limit("4 concurrent requests")


def test_the_policy_line_names_a_month_without_a_length(start_guard):
    rule = LimitRule(name="m", quota=parse_quota("20 usd/month"))
    assert policy_header([rule]) == b'RateLimit-Policy: "m";q=20000000\r\n'


async def begins(seen, writer):
    """Begin a stream, and never end it."""
    event = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(b"%x\r\n%b\r\n" % (len(event), event))
    await writer.drain()
    await asyncio.sleep(20)


def test_who_leaves_a_stream_pays_what_was_held_and_frees_the_place(start_guard):
    policy = limits("5 concurrent requests", "600 gpu-seconds/day", "1 usd/day", rest=PRICES)
    guard = start_guard(begins, policy)
    with guard.connect() as client:
        client.sendall(post({**chat(100), "stream": True}))
        while b"delta" not in client.recv(65536):
            pass
        before = left(guard)
        assert before["concurrent-requests"] == 4
    guard.settled(1)
    after = left(guard)
    assert after["concurrent-requests"] == 5
    assert after["usd-day"] == before["usd-day"] <= 1_000_000 - 1000
    assert 0 <= after["gpu-seconds-day"] - before["gpu-seconds-day"] <= 100
    assert held(guard) == 0


def test_what_never_reached_the_server_pays_nothing(start_guard):
    policy = limits("5 concurrent requests", "600 gpu-seconds/day", "1 usd/day", rest=PRICES)
    guard = start_guard(reports(1, 1), replace(policy, concurrency=Concurrency(max_running=1, max_waiting=0)))
    whole = left(guard)
    guard.call(_take_all_places(guard))
    for number in range(4):
        assert status(guard.exchange(chat(100))) == 503
        guard.settled(number + 1)
    assert left(guard) == whole
    assert held(guard) == 0


async def _take_all_places(guard) -> None:
    guard.guard._core.admission.enter(object(), guard.loop.time(), client="x", weight=1.0, estimate=1.0)
