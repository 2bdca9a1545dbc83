"""What the guard promises to the unit, through real sockets: who is admitted, what a refusal costs, what is left over."""

import asyncio
import os
import random
import resource
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import pytest

from corral.demo.llama_server import LlamaServer, free_port
from corral.guard import service
from corral.policy.model import Bounds, Concurrency, Generation, LimitRule, Policy, Quota, Upstream
from corral.stores.memory import MemoryStore
from request_lives import Ledger, Lives
from running_guard import RunningGuard, answer, api_key, post

pytestmark = pytest.mark.e2e

CLIENTS = 1000
LONG = 10.0**9
"""Seconds in which an even quota gives nothing back that could be seen."""

PLENTY = replace(Bounds(), max_connections=4096, max_connections_per_address=4096)
BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}


@pytest.fixture(autouse=True)
def many_files():
    """Let one process hold both ends of a thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def limit(name: str, amount: int, algorithm: str, unit: str = "requests", **more) -> LimitRule:
    return LimitRule(name=name, quota=Quota(amount, LONG, unit), algorithm=algorithm, **more)


def policy(*limits: LimitRule, **more) -> Policy:
    return Policy(
        auth=more.pop("auth", "none"),
        limits=limits,
        bounds=PLENTY,
        concurrency=Concurrency(max_running=32, max_waiting=CLIENTS),
        **more,
    )


async def end(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever has become of it."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def storm(port: int, requests: list[bytes]) -> list[int]:
    """Connect once for each request, send them all at the same moment, and read the statuses."""
    go = asyncio.Event()
    connecting = asyncio.Semaphore(200)
    ready = 0

    async def client(request: bytes) -> int:
        nonlocal ready
        async with connecting:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        ready += 1
        if ready == len(requests):
            go.set()
        await go.wait()
        writer.write(request)
        said = await reader.read()
        await end(writer)
        return int(said.split()[1])

    return list(await asyncio.gather(*(client(request) for request in requests)))


async def standings(guard: RunningGuard, key=None) -> dict[str, int]:
    pipeline = guard.guard._core.pipeline
    caller = pipeline._callers.admit("127.0.0.1", key)
    now = guard.loop.time()
    found = [*pipeline._store.peek(caller.limits, now), *pipeline._store.peek(caller.token_limits, now)]
    return {standing.name: standing.remaining for standing in found}


def left(guard: RunningGuard) -> dict[str, int]:
    return guard.call(standings(guard))


def left_over(guard: RunningGuard) -> tuple[int, ...]:
    """What is held by now: places, places in the queue, connections, tokens, connections to the server in use."""
    core = guard.guard._core
    busy = sum(server.pool.open_connections - len(server.pool._idle) for server in core.upstreams.servers)
    store = core.pipeline._store
    return guard.guard.running, guard.guard.waiting, guard.guard.connections, getattr(store, "store", store).held, busy


def until_nothing_is_left(guard: RunningGuard) -> None:
    end = time.monotonic() + 60
    while any(left_over(guard)):
        assert time.monotonic() < end, left_over(guard)
        time.sleep(0.01)


def asked(key: str = "", body=BODY) -> bytes:
    return post(body, headers=f"X-Api-Key: {key}\r\nConnection: close\r\n" if key else "Connection: close\r\n")


# exactly the limit


@pytest.mark.parametrize(
    ("algorithm", "burst", "admitted"), [("gcra", None, 137), ("gcra", 40, 40), ("window", None, 137)]
)
def test_of_a_thousand_at_once_exactly_the_limit_is_admitted(start_guard, algorithm, burst, admitted):
    guard = start_guard(policy=policy(limit("client", 137, algorithm, burst=burst)))
    statuses = asyncio.run(storm(guard.port, [asked()] * CLIENTS))
    assert Counter(statuses) == {200: admitted, 429: CLIENTS - admitted}
    assert len(guard.server.seen) == admitted
    until_nothing_is_left(guard)
    assert left(guard) == {"client": 0}


@pytest.mark.parametrize("algorithm", ["gcra", "window"])
@pytest.mark.parametrize(("everyone", "admitted"), [(250, 250), (401, 400)])
def test_of_several_limits_each_is_exact_and_a_refusal_by_one_burns_none(start_guard, algorithm, everyone, admitted):
    """Ten clients of 100 requests each: nobody gets more than 40, nor do all of them more than `everyone`."""
    keys = tuple(api_key(f"k{number}", f"secret-{number}") for number in range(10))
    rules = (
        limit("client", 40, algorithm),
        limit("everyone", everyone, algorithm, per="everyone"),
        limit("address", 1000, "gcra", per="address"),
    )
    guard = start_guard(policy=policy(*rules, auth="keys", keys=keys))
    names = [number % 10 for number in range(CLIENTS)]
    random.Random(3).shuffle(names)
    statuses = asyncio.run(storm(guard.port, [asked(f"secret-{name}") for name in names]))
    assert Counter(statuses) == {200: admitted, 429: CLIENTS - admitted}
    by_client = Counter(name for name, status in zip(names, statuses, strict=True) if status == 200)
    assert max(by_client.values()) <= 40
    until_nothing_is_left(guard)
    assert left(guard) == {"client": 40, "everyone": everyone - admitted, "address": 1000 - admitted}


@pytest.mark.parametrize("algorithm", ["gcra", "window"])
def test_of_a_thousand_at_once_exactly_as_many_run_as_tokens_are_there(start_guard, algorithm):
    """Each holds the same; a request for which no tokens are there gets its request back."""

    async def silent(seen, writer):
        writer.write(answer({"choices": []}))

    rules = (limit("requests", 500, algorithm), limit("tokens", 2000, algorithm, "output tokens"))
    guard = start_guard(silent, policy(*rules))
    statuses = asyncio.run(storm(guard.port, [asked(body={**BODY, "max_tokens": 30})] * CLIENTS))
    assert Counter(statuses) == {200: 66, 429: CLIENTS - 66}
    until_nothing_is_left(guard)
    assert left(guard) == {"requests": 500 - 66, "tokens": 2000 - 66 * 30}


# refused burns nothing


@pytest.mark.parametrize("algorithm", ["gcra", "window"])
def test_what_is_refused_burns_nothing_whoever_refuses_it(start_guard, algorithm):
    """Refused by another limit, for want of tokens, for want of a place: what is left says so to the unit."""
    blocked = asyncio.Event()

    async def slow(seen, writer):
        await blocked.wait()
        writer.write(answer({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}))

    rules = (
        limit("client", 300, algorithm),
        limit("everyone", 20, algorithm, per="everyone"),
        limit("tokens", 1000, algorithm, "output tokens"),
    )
    small = replace(policy(*rules), concurrency=Concurrency(max_running=2, max_waiting=3))
    guard = start_guard(slow, small)

    async def mixture() -> list[int]:
        asks = [asked(body={**BODY, "max_tokens": 100})] * 5
        async with asyncio.TaskGroup() as group:
            served = group.create_task(storm(guard.port, asks))
            while sum(left_over(guard)[:2]) < 5:
                await asyncio.sleep(0.01)
            crowd = await storm(guard.port, asks)  # no place
            hungry = await storm(guard.port, [asked(body={**BODY, "max_tokens": 600})] * 30)  # no tokens
            guard.loop.call_soon_threadsafe(blocked.set)
        return [*served.result(), *crowd, *hungry]

    statuses = asyncio.run(mixture())
    assert Counter(statuses) == {200: 5, 503: 5, 429: 30}
    until_nothing_is_left(guard)
    assert left(guard) == {"client": 295, "everyone": 15, "tokens": 995}
    statuses = asyncio.run(storm(guard.port, [asked()] * 100))
    assert Counter(statuses)[429] + Counter(statuses)[503] + Counter(statuses)[200] == 100
    until_nothing_is_left(guard)
    more = Counter(statuses)[200]
    assert left(guard) == {"client": 295 - more, "everyone": 15 - more, "tokens": 995 - more}


# every life ends


def test_hundreds_of_lives_over_sockets_keep_the_books(start_guard, monkeypatch):
    """As `tests/guard/test_request_lives.py` has them by the ten thousand in virtual time."""
    monkeypatch.setattr(service, "MemoryStore", lambda *more, **named: Ledger(MemoryStore(*more, **named)))
    lives = Lives(seed=7, patience=0.2, certain=False)
    amount = 10**9
    rules = tuple(
        limit(f"{unit.replace(' ', '-')}", amount, "window", unit)
        for unit in ("tokens", "input tokens", "output tokens")
    )
    slow = replace(
        policy(*rules),
        generation=Generation(max_tokens=10_000),
        concurrency=Concurrency(max_running=12, max_waiting=12, max_wait=1.0),
        bounds=replace(PLENTY, body_timeout=1.0),
        upstream=replace(Upstream(), first_byte_timeout=2.0, idle_timeout=2.0, max_answer=100_000),
    )
    guard = start_guard(lives.handle, slow)
    ledger = guard.guard._core.pipeline._store
    ledger.records = guard.records

    async def client() -> None:
        while len(lives.lives) < 500:
            await lives.live(guard.port, lives.draw())

    async def all_live() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(28):
                group.create_task(client())

    asyncio.run(all_live())
    until_nothing_is_left(guard)
    seen = guard.call(_checked(ledger, lives))
    assert {"answered", "upstream-failed", "client-left", "timed-out"} <= set(seen), seen
    assert left(guard) == {
        "tokens": amount - ledger.charged,
        "input-tokens": amount - sum(used[1] for ((used, _),) in ledger.settled.values()),
        "output-tokens": amount - sum(used[2] for ((used, _),) in ledger.settled.values()),
    }


async def _checked(ledger: Ledger, lives: Lives) -> Counter[str]:
    return ledger.check(lives)


def test_a_server_killed_under_load_leaves_nothing_behind(start_guard, tiny_model):
    """`kill -9` of the real llama-server in the middle of streams, with more waiting: all is let go, and it goes on."""
    port = free_port()
    options = ["-np", "4", "-c", "16384"]
    server = LlamaServer.start(tiny_model, port=port, extra=options)
    try:
        endless = replace(
            policy(limit("requests", 1000, "window"), limit("tokens", 10**9, "window", "tokens")),
            generation=Generation(max_tokens=3000),
            concurrency=Concurrency(max_running=4, max_waiting=64),
            upstream=replace(Upstream(), url=f"http://127.0.0.1:{port}"),
        )
        guard = start_guard(policy=endless)
        ask = asked(body={"messages": BODY["messages"], "stream": True})

        async def killed() -> list[bytes]:
            streams = [await asyncio.open_connection("127.0.0.1", guard.port) for _ in range(40)]
            for _, writer in streams:
                writer.write(ask)
            while left_over(guard)[:2] != (4, 36):
                await asyncio.sleep(0.01)
            while b"data: " not in await asyncio.wait_for(streams[0][0].read(4096), 60):
                pass
            os.kill(server.pid, signal.SIGKILL)
            answers = list(await asyncio.gather(*(reader.read() for reader, _ in streams)))
            await asyncio.gather(*(end(writer) for _, writer in streams))
            return answers

        answers = asyncio.run(killed())
        assert not any(b"data: [DONE]" in said and b'"error"' not in said for said in answers)
        cut = len(answers) - sum(said.startswith((b"HTTP/1.1 502 ", b"HTTP/1.1 503 ")) for said in answers)
        assert 1 <= cut <= 4  # the others had no answer yet, so that they are told
        until_nothing_is_left(guard)
        assert guard.guard._core.upstreams.open_connections == 0
        assert left(guard)["requests"] == 1000 - cut
        assert {record.ending for record in guard.settled(40)} <= {"upstream-failed", "refused"}
        server.stop()
        server = LlamaServer.start(tiny_model, port=port, extra=options)
        patience = time.monotonic() + 60
        while guard.guard._core.upstreams.away:
            assert time.monotonic() < patience
            time.sleep(0.01)
        assert asyncio.run(storm(guard.port, [asked()] * 8)) == [200] * 8
        until_nothing_is_left(guard)
    finally:
        server.stop()
