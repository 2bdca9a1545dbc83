"""Ten thousand requests end in every way there is, in virtual time, in the whole guard: no token is lost or doubled."""

import asyncio
import random
from dataclasses import replace

from corral.guard import service
from corral.guard.service import Guard
from corral.policy.model import Bounds, Concurrency, Generation, LimitRule, Listen, Policy, Quota, Upstream
from corral.stores.memory import MemoryStore
from request_lives import ENDINGS, Ledger, Lives
from running_guard import Records, ScriptedServer
from virtual_time import VirtualLoop

AMOUNT = 10**9
LONG = 10.0**12
"""Seconds in which an even quota gives nothing back that could be seen."""

LIMITS = (
    *(
        LimitRule(name=f"{unit.replace(' ', '-')}-{algorithm}", quota=Quota(AMOUNT, LONG, unit), algorithm=algorithm)
        for unit in ("requests", "tokens", "input tokens", "output tokens")
        for algorithm in ("gcra", "window")
    ),
    LimitRule(name="at-once", quota=Quota(AMOUNT, 0.0, "concurrent requests")),
)

TRIED = (
    *(replace(rule, name=f"{rule.name}-tried", shadow=True) for rule in LIMITS),
    LimitRule(name="few-at-once-tried", quota=Quota(3, 0.0, "concurrent requests"), shadow=True),
)


def policy(port: int) -> Policy:
    return Policy(
        auth="none",
        limits=(*LIMITS, *TRIED),
        listen=Listen(address="127.0.0.1:0"),
        generation=Generation(max_tokens=100_000),
        concurrency=Concurrency(max_running=6, max_waiting=8, max_wait=0.4),
        bounds=replace(Bounds(), head_timeout=2.0, body_timeout=0.3),
        upstream=replace(
            Upstream(), url=f"http://127.0.0.1:{port}", first_byte_timeout=0.5, idle_timeout=0.5, max_answer=100_000
        ),
    )


async def all_live(loop: VirtualLoop, lives: Lives, count: int, at_once: int) -> tuple[Guard, Ledger, asyncio.Server]:
    server = ScriptedServer(lives.handle)
    upstream = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = upstream.sockets[0].getsockname()[1]
    chance = random.Random(lives.seed)
    loop.unreachable = lambda asked: asked == port and chance.random() < 0.03
    guard = Guard(policy(port), access_log=(records := Records()))
    await guard.start()
    ledger = guard._core.pipeline._store
    ledger.records = records

    async def client() -> None:
        while len(lives.lives) < count:
            await lives.live(guard.address[1], lives.draw())
            await asyncio.sleep(chance.random() * 0.2)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(client())
    await asyncio.sleep(30)  # of no time at all
    return guard, ledger, upstream


def test_every_token_that_was_reserved_is_charged_or_given_back(monkeypatch):
    monkeypatch.setattr(service, "MemoryStore", lambda *more, **named: Ledger(MemoryStore(*more, **named)))
    loop = VirtualLoop()
    lives = Lives(seed=20261124)
    try:
        guard, ledger, _ = loop.run_until_complete(all_live(loop, lives, 10_000, 20))
        seen = ledger.check(lives)
        assert {life.ending for life in lives.lives} == set(ENDINGS)
        assert set(seen) == {
            "answered", "upstream-failed", "upstream-failed, unreached", "client-left", "client-left, unreached",
            "timed-out", "cut-off", "refused, unreached",
        }  # fmt: skip
        assert min(seen.values()) > 10, seen
        assert (guard.running, guard.waiting, guard.connections) == (0, 0, 0)
        caller = guard._core.pipeline._callers.admit("127.0.0.1", None)
        standings = ledger.peek(caller.token_limits, loop.time())
        used = [sum(costs[measure] for ((costs, _),) in ledger.settled.values()) for measure in (0, 0, 1, 1, 2, 2)]
        assert [AMOUNT - standing.remaining for standing in standings[:-1]] == [*used, 0] * 2  # in shadow as in force
        assert standings[-1].remaining == 3
        assert {"", "too_many_at_once:few-at-once-tried"} == {record.shadow for record in ledger.records}
        # Who found no place or no server has its request back; nobody else has.
        back = sum(
            record.refused in ("overloaded", "upstream_unavailable", "upstream_down") for record in ledger.records
        )
        counted = {AMOUNT - standing.remaining for standing in ledger.peek(caller.limits, loop.time())}
        assert counted == {len(lives.lives) - back}
        loop.run_until_complete(guard.stop(0))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
