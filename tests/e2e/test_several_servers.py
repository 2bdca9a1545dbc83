"""Two real llama-servers behind one guard, one of which is killed while both are at work."""

import os
import signal
import threading
import time
from dataclasses import replace

import httpx2
import pytest

from corral.demo.llama_server import LlamaServer
from corral.guard.upstream_words import describe_servers
from corral.policy.model import Concurrency, HealthChecks, LimitRule, Policy, Quota, UpstreamServer

pytestmark = pytest.mark.e2e

LIMITS = (
    LimitRule(name="requests", quota=Quota(10_000, 60.0)),
    LimitRule(name="tokens", quota=Quota(10_000_000, 60.0, "tokens")),
)
POLICY = Policy(
    auth="none",
    limits=LIMITS,
    concurrency=Concurrency(max_wait=60.0),
    health=HealthChecks(interval=0.5, pause=0.5, max_pause=1.0),
)


def serve(model, slots: int, port: int | None = None) -> LlamaServer:
    return LlamaServer.start(model, port=port, extra=["-np", str(slots), "-c", "8192", "--no-webui"])


def in_front_of(*servers: LlamaServer) -> Policy:
    return replace(
        POLICY,
        upstreams=tuple(UpstreamServer(name=f"s{index}", url=server.url) for index, server in enumerate(servers)),
    )


def until(found, timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while not found():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def test_one_of_two_is_killed_under_load_and_all_that_was_held_is_given_back(tiny_model, start_guard):
    with serve(tiny_model, 2) as left, serve(tiny_model, 1) as right:
        guard = start_guard(policy=in_front_of(left, right))
        core = guard.guard._core
        loads = [server.load for server in core.upstreams.servers]
        assert [load.slots for load in loads] == [2, 1]
        over, most = threading.Event(), [0, 0]
        outcomes: list[tuple[float, int, bool]] = []

        def client(number: int) -> None:
            with httpx2.Client(base_url=f"http://127.0.0.1:{guard.port}", trust_env=False, timeout=60) as session:
                while not over.is_set():
                    asked = {"prompt": f"{number}", "n_predict": 60, "stream": number % 2 == 0}
                    began = time.monotonic()
                    try:
                        answer = session.post("/completion", json=asked)
                        outcomes.append((began, answer.status_code, '"stop":true' in answer.text))
                    except httpx2.HTTPError:
                        outcomes.append((began, 0, False))
                    for index, load in enumerate(loads):
                        most[index] = max(most[index], load.running)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        until(lambda: len(outcomes) > 20 and all(load.running for load in loads))
        killed = time.monotonic()
        os.kill(left.pid, signal.SIGKILL)
        until(lambda: not loads[0].usable and loads[0].running == 0)
        away = time.monotonic()
        count = len(outcomes)
        until(lambda: len(outcomes) > count + 20)
        port = int(left.url.rpartition(":")[2])
        with serve(tiny_model, 1, port):
            until(lambda: loads[0].usable and loads[0].slots == 1 and loads[0].running)
            over.set()
            for thread in threads:
                thread.join(60)
        assert all(outcome[1:] == (200, True) for outcome in outcomes if outcome[0] > away)
        # Those are lost that ran when the server was killed, or were sent before anybody could know; nobody else.
        lost = [outcome for outcome in outcomes if outcome[1:] != (200, True)]
        assert all(status in (0, 200, 502) for _, status, _ in lost)
        assert all(began < killed for began, _, _ in lost)
        assert len(lost) <= 4
        assert most[0] <= 2
        assert most[1] <= 1
        guard.settled(len(outcomes))
        until(lambda: core.admission.running == core.admission.waiting == 0)
        assert [(load.running, load.outstanding) for load in loads] == [(0, 0.0), (0, 0.0)]
        assert core.pipeline._store.held == 0


def test_slots_are_learnt_with_the_servers_own_key(tiny_model, start_guard):
    with LlamaServer.start(tiny_model, extra=["-np", "3", "-c", "8192", "--api-key", "secret"]) as server:
        policy = in_front_of(server)
        guard = start_guard(policy=replace(policy, upstreams=(replace(policy.upstreams[0], api_key="secret"),)))
        assert guard.guard._core.upstreams.balance.places == 3
        wrong = start_guard(policy=replace(policy, upstreams=(replace(policy.upstreams[0], api_key="wrong"),)))
        (said,) = describe_servers(wrong.guard._core.upstreams)
        assert "does not accept the guard's own key" in said
