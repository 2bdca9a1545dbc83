"""Several servers behind one guard: where a request goes, what happens when one fails, and what is learnt of them."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import pytest

from corral.guard.metrics import Metrics
from corral.guard.upstream_metrics import show_servers
from corral.guard.upstream_words import describe_servers
from corral.policy.model import Concurrency, HealthChecks, LimitRule, Policy, Quota, Upstream, UpstreamServer
from corral.policy.rules import check
from running_guard import CHAT, ScriptedServer, answer, post, read_all

QUICK = HealthChecks(interval=0.3, pause=0.3, max_pause=0.6)
SLOW = HealthChecks(interval=600.0, pause=600.0, max_pause=600.0)
"""Nothing is found out by asking, only by what requests find."""

OPEN = Policy(auth="none", limits=(), health=QUICK)
HUNDRED = LimitRule(name="client", quota=Quota(100, 3600.0), algorithm="window")


@dataclass
class Stage:
    """Scripted servers on a thread of their own."""

    loop: asyncio.AbstractEventLoop
    listeners: dict[int, asyncio.Server] = field(default_factory=dict)
    streams: dict[int, list[asyncio.StreamWriter]] = field(default_factory=dict)

    def call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def start(self, handler=None, *, slots=1, port=0, probe=None) -> ScriptedServer:
        async def ask(seen, writer):
            writer.write(answer({"total_slots": slots} if "/props" in seen.line else {"status": "ok"}))

        server = ScriptedServer(probe=probe or ask)
        if handler is not None:
            server.handler = handler

        async def serve(reader, writer):
            self.streams.setdefault(server.port, []).append(writer)
            await server.serve(reader, writer)

        async def up():
            return await asyncio.start_server(serve, "127.0.0.1", port)

        listener = self.call(up())
        server.port = listener.sockets[0].getsockname()[1]
        self.listeners[server.port] = listener
        return server

    def stop(self, server: ScriptedServer) -> None:
        """End a server as a crash does: its connections are cut."""

        async def down():
            self.listeners.pop(server.port).close()
            for writer in self.streams.pop(server.port, []):
                writer.transport.abort()

        self.call(down())


@pytest.fixture
def stage() -> Iterator[Stage]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    stage = Stage(loop)
    yield stage

    async def end():
        for listener in stage.listeners.values():
            listener.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)

    stage.call(end())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def behind(policy: Policy, *servers: ScriptedServer, **settings) -> Policy:
    entries = tuple(
        UpstreamServer(name=name, url=f"http://127.0.0.1:{server.port}", **settings)
        for name, server in zip("abc", servers, strict=False)
    )
    return replace(policy, upstreams=entries)


def until(found: Callable[[], object], timeout: float = 15.0) -> None:
    end = time.monotonic() + timeout
    while not found():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def status(raw: bytes) -> int:
    return int(raw.split(b" ", 2)[1])


def upstreams(guard):
    return guard.guard._core.upstreams


def idle(guard) -> bool:
    core = guard.guard._core
    loads = [server.load for server in core.upstreams.servers]
    return core.admission.running == core.admission.waiting == 0 and all(
        load.running == load.outstanding == 0 for load in loads
    )


class Gate:
    """A handler that answers when it is told to."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._open = asyncio.Event()

    async def __call__(self, seen, writer):
        await self._open.wait()
        writer.write(answer(CHAT))

    def open(self) -> None:
        self._stage.loop.call_soon_threadsafe(self._open.set)


def test_a_place_is_one_at_a_server_and_the_next_request_waits(stage, start_guard):
    gates = Gate(stage), Gate(stage)
    left, right = (stage.start(gate) for gate in gates)
    guard = start_guard(policy=behind(OPEN, left, right))
    clients = [guard.connect() for _ in range(3)]
    for client in clients:
        client.sendall(post({"messages": [{"role": "user", "content": "hi"}]}))
    until(lambda: len(left.seen) == len(right.seen) == 1 and guard.guard.waiting == 1)
    gates[1].open()
    until(lambda: len(right.seen) == 2)
    gates[0].open()
    assert [status(client.recv(65536)) for client in clients] == [200, 200, 200]
    assert len(left.seen) == 1
    guard.settled(3)
    assert idle(guard)
    for client in clients:
        client.close()


def test_the_one_with_the_fewest_outstanding_tokens_is_next(stage, start_guard):
    gates = Gate(stage), Gate(stage)
    left, right = (stage.start(gate, slots=8) for gate in gates)
    guard = start_guard(policy=behind(OPEN, left, right))
    clients = [guard.connect() for _ in range(4)]
    for number, (client, tokens) in enumerate(zip(clients, (1000, 10, 10, 10), strict=True)):
        client.sendall(post({"messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens}))
        until(lambda number=number: len(left.seen) + len(right.seen) == number + 1)
    assert (len(left.seen), len(right.seen)) == (1, 3)
    for gate in gates:
        gate.open()
    guard.settled(4)
    for client in clients:
        client.close()


def test_each_server_is_sent_its_own_host_and_key(stage, start_guard):
    left, right = stage.start(), stage.start()
    policy = behind(OPEN, left, right)
    keyed = replace(policy.upstreams[0], api_key="its-own")
    guard = start_guard(
        policy=replace(policy, upstreams=(keyed, policy.upstreams[1]), upstream=Upstream(api_key="shared"))
    )
    upstreams(guard).servers[0].load.outstanding = 1.0
    guard.exchange()
    upstreams(guard).servers[1].load.outstanding = 2.0
    guard.exchange()
    for server, key in ((left, "its-own"), (right, "shared")):
        (seen,) = server.seen
        assert (seen.head["host"], seen.head["authorization"]) == (f"127.0.0.1:{server.port}", f"bearer {key}")
        (props,) = (probe for probe in server.probes[:2] if "/props" in probe.line)
        assert props.head["authorization"] == f"bearer {key}"
        assert "authorization" not in server.probes[0].head


# slots


def test_slots_are_learnt_at_the_start_and_again_when_the_server_comes_back_with_others(stage, start_guard):
    server = stage.start(slots=3)
    guard = start_guard(policy=replace(OPEN, upstream=Upstream(url=f"http://127.0.0.1:{server.port}")))
    until(lambda: upstreams(guard).balance.places == 3)
    assert "has 3 slots: 3 requests run there at once." in describe_servers(upstreams(guard))[0]
    stage.stop(server)
    until(lambda: upstreams(guard).away)
    stage.start(slots=1, port=server.port)
    until(lambda: upstreams(guard).balance.places == 1)
    until(lambda: not upstreams(guard).away)
    assert "has 1 slot: 1 request runs there at once." in describe_servers(upstreams(guard))[0]


def test_more_slots_let_those_who_wait_run(stage, start_guard):
    gate, slots = Gate(stage), [1]

    async def ask(seen, writer):
        writer.write(answer({"total_slots": slots[0]}))

    server = stage.start(gate, probe=ask)
    guard = start_guard(policy=behind(OPEN, server))
    clients = [guard.connect() for _ in range(3)]
    for client in clients:
        client.sendall(post({"messages": [{"role": "user", "content": "hi"}]}))
    until(lambda: guard.guard.waiting == 2)
    slots[0] = 2
    until(lambda: guard.guard.waiting == 1)
    assert guard.guard.running == 2
    gate.open()
    guard.settled(3)
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ("says", "concurrency", "upstream", "places"),
    [
        (4, Concurrency(), Upstream(), 4),
        (4, Concurrency(max_running=2), Upstream(), 2),
        (4, Concurrency(max_running=9), Upstream(), 4),
        (4, Concurrency(), Upstream(slots=6), 6),
        (None, Concurrency(), Upstream(), 1),
        (None, Concurrency(max_running=9), Upstream(), 9),
        (None, Concurrency(), Upstream(dialect="openai"), 4),
        (9, Concurrency(), Upstream(max_connections=5), 4),
        (9, Concurrency(), Upstream(dialect="llama-cpp-python"), 1),
        (True, Concurrency(), Upstream(), 1),
        ("4", Concurrency(), Upstream(), 1),
        (0, Concurrency(), Upstream(), 1),
    ],
)
def test_how_many_run_at_once(stage, start_guard, says, concurrency, upstream, places):
    server = stage.start(slots=says)
    guard = start_guard(
        policy=replace(OPEN, concurrency=concurrency, upstream=replace(upstream, url=f"http://127.0.0.1:{server.port}"))
    )
    until(lambda: upstreams(guard).servers[0].found.status)
    assert upstreams(guard).balance.places == places


@pytest.mark.parametrize("body", [b"[]", b"not json", b"{}", b'{"total_slots": 1e9}', b"[" * 100_000])
def test_strange_properties_teach_nothing(stage, start_guard, body):
    async def ask(seen, writer):
        writer.write(answer(body if "/props" in seen.line else {"status": "ok"}))

    server = stage.start(probe=ask)
    guard = start_guard(policy=behind(OPEN, server))
    until(lambda: upstreams(guard).servers[0].found.status)
    assert upstreams(guard).balance.places == 1
    assert status(guard.exchange()) == 200
    assert "does not say how many slots" in describe_servers(upstreams(guard))[0]


# failures


def test_a_refused_connection_is_made_good_by_another_server(stage, start_guard):
    left, right = stage.start(), stage.start()
    guard = start_guard(policy=behind(replace(OPEN, health=SLOW), left, right))
    stage.stop(left)
    for _ in range(5):
        assert status(guard.exchange()) == 200
    assert len(right.seen) == 5
    guard.settled(5)
    assert [server.circuit.state for server in upstreams(guard).servers] == ["open", "closed"]
    assert idle(guard)


def test_what_was_sent_is_never_sent_to_another_server(stage, start_guard):
    async def cut(seen, writer):
        writer.transport.abort()

    async def ask(seen, writer):
        writer.write(answer({"total_slots": 1}))
        writer.close()  # so that the request goes over a connection of its own

    left, right = stage.start(cut, probe=ask), stage.start()
    guard = start_guard(policy=behind(OPEN, left, right))
    until(lambda: not upstreams(guard).servers[0].pool._open)
    assert status(guard.exchange()) == 502
    assert (len(left.seen), len(right.seen)) == (1, 0)


@pytest.mark.parametrize(("stale", "sent"), [(60.0, 3), (0.0, 2)])
def test_a_kept_connection_that_is_cut_late_had_the_request(stage, start_guard, monkeypatch, stale, sent):
    monkeypatch.setattr("corral.guard.gateway.exchange._STALE", stale)
    answered = []

    async def once(seen, writer):
        if answered:
            writer.transport.abort()
        else:
            answered.append(seen)
            writer.write(answer(CHAT))

    server = stage.start(once)
    guard = start_guard(policy=behind(replace(OPEN, health=SLOW), server))
    assert [status(guard.exchange()) for _ in range(2)] == [200, 502]
    assert len(server.seen) == sent


def test_who_finds_the_other_server_busy_waits_for_it(stage, start_guard):
    gate = Gate(stage)
    left, right = stage.start(), stage.start(gate)
    guard = start_guard(policy=behind(replace(OPEN, health=SLOW), left, right))
    upstreams(guard).servers[0].load.outstanding = 1.0  # so that the first goes to the right
    first, second = guard.connect(), guard.connect()
    first.sendall(post({"messages": [{"role": "user", "content": "hi"}]}))
    until(lambda: right.seen)
    stage.stop(left)
    second.sendall(post({"messages": [{"role": "user", "content": "hi"}]}))
    until(lambda: guard.guard.waiting == 1)
    gate.open()
    assert [status(client.recv(65536)) for client in (first, second)] == [200, 200]
    assert len(right.seen) == 2
    guard.settled(2)
    assert guard.guard.running == guard.guard.waiting == 0
    first.close()
    second.close()


def test_with_no_server_left_everybody_is_refused_at_once_and_gets_the_quota_back(stage, start_guard):
    gate = Gate(stage)
    server = stage.start(gate)
    policy = replace(OPEN, limits=(LimitRule(name="few", quota=Quota(20, 3600.0)),), health=SLOW)
    guard = start_guard(policy=behind(policy, server))
    clients = [guard.connect() for _ in range(3)]
    for client in clients:
        client.sendall(post({"messages": [{"role": "user", "content": "hi"}]}))
    until(lambda: guard.guard.waiting == 2)
    stage.stop(server)
    answers = [client.recv(65536) for client in clients]
    assert sorted(map(status, answers)) in ([502, 502, 502], [502, 502, 503])
    while not upstreams(guard).away:
        assert status(guard.exchange()) == 502
    refused = guard.exchange()
    assert status(refused) == 503
    head, _, body = refused.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert error["code"] == "upstream_down"
    assert "Connection refused" in error["message"]
    retry = int(next(line for line in head.split(b"\r\n") if line.startswith(b"Retry-After: ")).split()[1])
    assert 300 <= retry <= 600
    anthropic = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    assert status(guard.exchange(anthropic, path="/v1/messages")) == 529
    assert status(guard.exchange({"content": "a"}, path="/tokenize")) == 503
    assert status(guard.send(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")) == 503
    stage.start(port=server.port)
    guard.loop.call_soon_threadsafe(upstreams(guard).ask, lambda: None)
    until(lambda: not upstreams(guard).away)
    served = guard.exchange()
    assert status(served) == 200
    assert b"remaining: 19" in served.lower()
    assert idle(guard)
    for client in clients:
        client.close()


def test_those_who_wait_are_refused_when_the_last_server_goes(stage, start_guard):
    async def hang(seen, writer):
        await asyncio.sleep(60)

    server = stage.start(hang)
    guard = start_guard(policy=behind(replace(OPEN, health=replace(SLOW, failures=1)), server))
    with guard.connect() as runs, guard.connect() as waits:
        runs.sendall(post({"messages": [{"role": "user", "content": "hi"}]}))
        until(lambda: server.seen)
        waits.sendall(post({"messages": [{"role": "user", "content": "hi"}]}))
        until(lambda: guard.guard.waiting == 1)
        stage.stop(server)
        assert status(runs.recv(65536)) == 502
        assert status(waits.recv(65536)) == 503
    guard.settled(2)
    assert idle(guard)


def test_a_server_that_loads_gets_nothing_and_the_health_says_so(stage, start_guard):
    loading = [True]

    async def ask(seen, writer):
        writer.write(answer({"total_slots": 1}, "503 Service Unavailable" if loading[0] else "200 OK"))

    left, right = stage.start(probe=ask), stage.start()
    guard = start_guard(policy=behind(OPEN, left, right))
    assert [status(guard.exchange()) for _ in range(3)] == [200] * 3
    assert left.seen == []
    health = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    assert status(guard.send(health)) == 200
    stage.stop(right)
    until(lambda: upstreams(guard).away)
    until(lambda: status(guard.send(health)) == 503)
    loading[0] = False
    until(lambda: status(guard.send(health)) == 200)
    assert status(guard.exchange()) == 200
    assert len(left.seen) == 1


def test_a_server_that_does_not_take_the_guards_key_gets_nothing(stage, start_guard):
    async def ask(seen, writer):
        writer.write(answer({}, "401 Unauthorized" if "/props" in seen.line else "200 OK"))

    left, right = stage.start(probe=ask), stage.start()
    guard = start_guard(policy=behind(OPEN, left, right))
    until(lambda: not upstreams(guard).servers[0].load.usable)
    assert [status(guard.exchange()) for _ in range(2)] == [200] * 2
    assert left.seen == []
    assert "does not accept the guard's own key" in describe_servers(upstreams(guard))[0]


def test_a_reload_takes_another_key_to_the_server_for_the_guards_own_questions_too(stage, start_guard):
    async def ask(seen, writer):
        knows = "/props" not in seen.line or seen.head.get("authorization") == f"bearer {key[0]}"
        writer.write(answer({"total_slots": 1}, "200 OK" if knows else "401 Unauthorized"))

    key = ["old"]
    server = stage.start(probe=ask)
    guard = start_guard(policy=replace(OPEN, upstream=Upstream(url=f"http://127.0.0.1:{server.port}", api_key="old")))
    key[0] = "new"
    policy = guard.guard.policy
    guard.call(guard.guard.reload(replace(policy, upstream=replace(policy.upstream, api_key="new"))))
    asked = len(server.probes)
    until(lambda: len(server.probes) >= asked + 4)
    assert {seen.head["authorization"] for seen in server.probes[asked:] if "/props" in seen.line} == {"bearer new"}
    assert upstreams(guard).servers[0].load.usable


def test_a_model_of_ollamas_cloud_that_it_may_not_use_sends_no_server_away(stage, start_guard):
    gate = asyncio.Event()

    async def handle(seen, writer):
        if "cloud" in seen.json["model"]:
            await gate.wait()
            writer.write(answer({"error": "unauthorized", "signin_url": "https://x"}, "401 Unauthorized"))
        else:
            writer.write(answer(CHAT))

    server = stage.start(handle)
    policy = replace(OPEN, health=SLOW, upstream=Upstream(dialect="ollama"), limits=(HUNDRED,))
    guard = start_guard(policy=behind(policy, server))
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    clients = [guard.connect() for _ in range(3)]
    for client in clients:
        client.sendall(post({**chat, "model": "big:cloud"}))
    until(lambda: len(server.seen) == 3)
    stage.loop.call_soon_threadsafe(gate.set)
    for client in clients:
        said = client.recv(65536)
        assert status(said) == 502
        assert b"signin" not in said
        client.close()
    assert not upstreams(guard).away
    served = guard.exchange({**chat, "model": "small"})
    assert status(served) == 200
    assert b"X-RateLimit-Remaining: 96" in served  # those that failed are not free


def test_a_server_that_closes_its_connections_is_asked_though_all_its_slots_are_taken(stage, start_guard):
    gate = Gate(stage)

    async def ask(seen, writer):
        said = answer({"total_slots": 3})
        writer.write(said.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    server = stage.start(gate, probe=ask)
    guard = start_guard(policy=replace(behind(OPEN, server), upstream=Upstream(max_connections=3)))
    clients = [guard.connect() for _ in range(2)]
    for client in clients:
        client.sendall(post({"messages": [{"role": "user", "content": "hi"}]}))
    until(lambda: len(server.seen) == 2)
    asked = len(server.probes)
    until(lambda: len(server.probes) >= asked + 6)
    assert upstreams(guard).servers[0].failures == 0
    gate.open()
    for client in clients:
        assert status(client.recv(65536)) == 200
        client.close()


def test_in_shadow_what_runs_beyond_the_slots_goes_on_when_the_last_server_goes(stage, start_guard):
    loading, go_on = [False], asyncio.Event()
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'

    async def ask(seen, writer):
        writer.write(answer({"total_slots": 1}, "503 Service Unavailable" if loading[0] else "200 OK"))

    async def stream(seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + event)
        await writer.drain()
        await go_on.wait()
        writer.write(event)
        await writer.drain()
        writer.close()

    server = stage.start(stream, probe=ask)
    guard = start_guard(policy=behind(replace(OPEN, shadow=True), server))
    clients = [guard.connect() for _ in range(2)]
    for number, client in enumerate(clients):
        client.sendall(
            post({"messages": [{"role": "user", "content": "hi"}], "stream": True}, headers="Connection: close\r\n")
        )
        until(lambda number=number: len(server.seen) == number + 1)
    loading[0] = True
    until(lambda: upstreams(guard).away)
    time.sleep(0.1)
    stage.loop.call_soon_threadsafe(go_on.set)
    for client in clients:
        said = read_all(client)
        assert (said.count(b"HTTP/1.1 "), said.count(b'"delta"')) == (1, 2)
        client.close()
    assert [record.ending for record in guard.settled(2)] == ["answered"] * 2
    assert idle(guard)


def test_in_shadow_who_goes_to_another_server_beyond_the_slots_is_counted_there_once(stage, start_guard):
    gate = Gate(stage)
    left, right = stage.start(gate), stage.start(gate)
    guard = start_guard(policy=behind(replace(OPEN, shadow=True, health=SLOW), left, right))
    clients = [guard.connect() for _ in range(6)]

    def send(some) -> None:
        for client in some:
            client.sendall(post({"messages": [{"role": "user", "content": "hi"}]}))

    send(clients[:2])
    until(lambda: len(left.seen) + len(right.seen) == 2)

    async def deaf():
        stage.listeners[left.port].close()

    stage.call(deaf())
    send(clients[2:])
    until(lambda: len(left.seen) + len(right.seen) == 6)
    gate.open()
    for client in clients:
        assert status(client.recv(65536)) == 200
        client.close()
    guard.settled(6)
    assert idle(guard)


def test_a_server_that_hangs_is_found_out_and_its_requests_go_on(stage, start_guard):
    gate, hang = Gate(stage), []

    async def ask(seen, writer):
        if hang:
            await asyncio.sleep(60)
        writer.write(answer({"total_slots": 1}))

    server = stage.start(gate, probe=ask)
    guard = start_guard(policy=behind(replace(OPEN, health=replace(QUICK, timeout=1.0)), server))
    with guard.connect() as client:
        client.sendall(post({"messages": [{"role": "user", "content": "hi"}]}))
        until(lambda: server.seen)
        hang.append(True)
        until(lambda: upstreams(guard).away)
        gate.open()
        assert status(client.recv(65536)) == 200


def test_errors_of_the_servers_own_open_no_circuit_and_those_of_a_gateway_make_the_guard_ask(stage, start_guard):
    said = ["500 Internal Server Error"]

    async def fail(seen, writer):
        writer.write(answer({"error": {}}, said[0]))

    server = stage.start(fail)
    guard = start_guard(policy=behind(replace(OPEN, health=SLOW), server))
    asked = len(server.probes)
    assert [status(guard.exchange()) for _ in range(5)] == [500] * 5
    assert (len(server.probes), upstreams(guard).away) == (asked, False)
    said[0] = "503 Service Unavailable"
    assert status(guard.exchange()) == 503
    until(lambda: len(server.probes) > asked)
    assert not upstreams(guard).away


def test_probes_never_pile_up(stage, start_guard):
    async def hang(seen, writer):
        await asyncio.sleep(60)

    server = stage.start(probe=hang)
    guard = start_guard(policy=behind(replace(OPEN, health=replace(QUICK, timeout=60.0)), server))
    health = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    clients = [guard.connect() for _ in range(10)]
    for client in clients:
        client.sendall(health)
    time.sleep(0.6)
    assert len(server.probes) == 1
    for client in clients:
        client.close()


# llama-cpp-python


def test_llama_cpp_python_has_one_request_at_a_time_whatever_it_is(stage, start_guard):
    at_once, most, paths = [0], [0], []

    async def interrupts(seen, writer):
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        paths.append(seen.line)
        await asyncio.sleep(0.02)
        at_once[0] -= 1
        writer.write(answer(CHAT))

    async def ask(seen, writer):
        assert seen.line.startswith("GET /health ")  # no route of its own: nothing is interrupted
        writer.write(answer({"detail": "Not Found"}, "404 Not Found"))

    server = stage.start(interrupts, probe=ask)
    policy = replace(OPEN, upstream=Upstream(url=f"http://127.0.0.1:{server.port}", dialect="llama-cpp-python"))
    guard = start_guard(policy=policy)
    asked = [
        post({"messages": [{"role": "user", "content": "hi"}], "stream": True}),
        post({"input": "hi"}, path="/tokenize"),
        post({"input": "hi"}, path="/v1/embeddings"),
        b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ] * 3
    clients = [guard.connect() for _ in asked]
    for client, request in zip(clients, asked, strict=True):
        client.sendall(request)
    assert [status(client.recv(65536)) for client in clients] == [200] * len(asked)
    assert (most[0], len(paths)) == (1, 12)
    assert status(guard.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")) == 200
    for client in clients:
        client.close()


# metrics


def test_each_server_has_its_metrics(stage, start_guard):
    gate = Gate(stage)
    left, right = stage.start(gate, slots=2), stage.start(slots=3)
    guard = start_guard(policy=behind(replace(OPEN, health=SLOW), left, right))
    stage.stop(right)
    with guard.connect() as client:
        client.sendall(post({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}))
        until(lambda: left.seen)
        guard.loop.call_soon_threadsafe(upstreams(guard).ask, lambda: None)
        until(lambda: upstreams(guard).servers[1].failures)
        metrics = Metrics()
        show_servers(metrics, upstreams(guard))
        said = metrics.exposition().decode()
        gate.open()
        client.recv(65536)
    for line in (
        'corral_upstream_up{upstream="a"} 1.0',
        'corral_upstream_slots{upstream="a"} 2.0',
        'corral_upstream_running_requests{upstream="a"} 1.0',
        'corral_upstream_running_requests{upstream="b"} 0.0',
        'corral_upstream_outstanding_tokens{upstream="a"} 5',
        'corral_upstream_failures_total{upstream="b"} 1.0',
        'corral_upstream_circuit{upstream="a"} 0.0',
    ):
        assert line in said


# what a policy may say


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (Policy(upstream=Upstream(dialect="llama-cpp-python"), concurrency=Concurrency(max_running=2)), "interrupts"),
        (Policy(upstream=Upstream(dialect="llama-cpp-python", slots=2)), "It has 1 slot"),
        (Policy(upstream=Upstream(url="http://x:1"), upstreams=(UpstreamServer(name="a", url="http://y:1"),)), "where"),
        (Policy(upstreams=(UpstreamServer(name="a", url="http://y:1"),) * 2), "stands twice"),
        (Policy(upstreams=(UpstreamServer(name="a b", url="http://y:1"),)), "letters, digits"),
        (Policy(upstreams=(UpstreamServer(name="a", url="https://y:1"),)), "plain HTTP"),
        (Policy(upstreams=(UpstreamServer(name="a", url="http://y:1", slots=64),)), "less than"),
        (Policy(upstream=Upstream(slots=0)), "at least 1"),
        (Policy(health=HealthChecks(path="health")), "write a path"),
        (Policy(health=HealthChecks(path="/a b\r\n")), "write a path"),
        (Policy(health=HealthChecks(pause=20.0)), "at least health.pause"),
    ],
)
def test_contradictions_are_errors(policy, said):
    assert any(said in message for _, message in check(policy))


def test_one_place_for_each_server_is_no_contradiction():
    two = tuple(UpstreamServer(name=name, url=f"http://{name}:1") for name in "ab")
    policy = Policy(
        upstream=Upstream(dialect="llama-cpp-python"), upstreams=two, concurrency=Concurrency(max_running=2)
    )
    assert list(check(policy)) == []


def test_an_answer_that_begins_is_cut_when_its_server_dies(stage, start_guard):
    async def begin(seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"a\r\ndata: {}\n\n\r\n")
        await asyncio.sleep(60)

    left, right = stage.start(begin), stage.start()
    guard = start_guard(policy=behind(OPEN, left, right))
    with closing(guard.connect()) as client:
        asked = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
        client.sendall(post(asked, headers="Connection: close\r\n"))
        until(lambda: left.seen)
        assert b"200 OK" in client.recv(65536)
        stage.stop(left)
        read_all(client)
    assert right.seen == []
    guard.settled(1)
    assert idle(guard)
