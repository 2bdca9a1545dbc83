"""How answers travel: whole, streamed, slowly, cut, and not at all."""

import asyncio
import threading
from dataclasses import replace
from hashlib import sha256

import pytest

from corral.policy.model import ApiKey, Bounds, Concurrency, LimitRule, Plan, Policy, Quota, Upstream
from running_guard import CHAT, answer, post

OPEN = Policy(auth="none")
EVENTS = [b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'] * 3 + [
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n',
    b"data: [DONE]\n\n",
]
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def dechunk(body: bytes) -> bytes:
    parts = []
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            assert body == b"\r\n"
            return b"".join(parts)
        parts.append(body[:length])
        body = body[length + 2 :]


async def stream(seen, writer):
    writer.write(STREAM_HEAD)
    for event in EVENTS:
        writer.write(chunk(event))
        await writer.drain()
    writer.write(b"0\r\n\r\n")


async def hang(seen, writer):
    await asyncio.sleep(60)


def test_an_answer_is_relayed_and_its_usage_recorded(start_guard):
    guard = start_guard()
    answer = guard.exchange()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"hello"' in answer
    record = guard.settled(1)[0]
    assert (record.status, record.ending, record.prompt_tokens, record.completion_tokens) == (
        200,
        "answered",
        3,
        5,
    )


def test_a_stream_is_relayed_event_for_event_and_its_usage_recorded(start_guard):
    guard = start_guard(stream)
    head, _, body = guard.exchange({"messages": [{"role": "user", "content": "hi"}], "stream": True}).partition(
        b"\r\n\r\n"
    )
    assert dechunk(body) == b"".join(EVENTS)
    record = guard.settled(1)[0]
    assert (record.stream, record.prompt_tokens, record.completion_tokens) == (True, 7, 3)


def test_a_stream_arrives_while_it_is_made(start_guard):
    go_on = threading.Event()

    async def stepwise(seen, writer):
        writer.write(STREAM_HEAD + chunk(b"data: 1\n\n"))
        await writer.drain()
        await asyncio.to_thread(go_on.wait, 10)
        writer.write(chunk(b"data: 2\n\n") + b"0\r\n\r\n")

    guard = start_guard(stepwise)
    with guard.connect() as connection:
        body = b'{"messages":[{"role":"user","content":"hi"}]}'
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            % len(body)
            + body
        )
        seen = b""
        while b"data: 1" not in seen:
            seen += connection.recv(4096)
        assert b"data: 2" not in seen
        go_on.set()
        while part := connection.recv(4096):
            seen += part
    assert b"data: 2" in seen


def test_nothing_of_the_servers_own_head_passes(start_guard):
    async def chatty(seen, writer):
        writer.write(
            b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: *\r\nX-Secret: 1\r\n"
            b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        )

    answer = start_guard(chatty).exchange().lower()
    assert b"llama.cpp" not in answer
    assert b"access-control" not in answer
    assert b"x-secret" not in answer


def test_nothing_of_the_clients_own_head_passes(start_guard):
    guard = start_guard()
    guard.exchange(headers="X-Conversation-Id: 7\r\nCookie: a=b\r\nAuthorization: Bearer k\r\n")
    assert set(guard.server.seen[0].head) == {"host", "accept", "content-type", "content-length"}


def test_a_client_that_leaves_cancels_the_server_at_once(start_guard):
    guard = start_guard(hang)
    connection = guard.connect()
    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )

    async def reached():
        while not guard.server.seen:
            await asyncio.sleep(0.005)

    guard.call(asyncio.wait_for(reached(), 10))
    connection.close()
    record = guard.settled(1)[0]
    assert (record.ending, record.status) == ("client-left", 0)
    assert guard.guard.running == 0


def test_a_client_that_leaves_the_queue_costs_nothing(start_guard):
    policy = replace(OPEN, concurrency=Concurrency(max_running=1))
    guard = start_guard(hang, policy)
    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    raw = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    first, second = guard.connect(), guard.connect()
    first.sendall(raw)

    async def until(attribute, value):
        while getattr(guard.guard, attribute) != value:
            await asyncio.sleep(0.005)

    guard.call(asyncio.wait_for(until("running", 1), 10))
    second.sendall(raw)
    guard.call(asyncio.wait_for(until("waiting", 1), 10))
    second.close()
    guard.call(asyncio.wait_for(until("waiting", 0), 10))
    assert guard.guard.running == 1
    assert len(guard.server.seen) == 1
    first.close()
    guard.call(asyncio.wait_for(until("running", 0), 10))


def test_a_full_queue_refuses_and_gives_the_quota_back(start_guard):
    policy = replace(
        OPEN,
        concurrency=Concurrency(max_running=1, max_waiting=0),
        limits=(LimitRule(name="client", quota=Quota(2, 3600.0)),),
    )
    release = threading.Event()

    async def held(seen, writer):
        await asyncio.to_thread(release.wait, 10)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")

    guard = start_guard(held, policy)
    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    raw = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with guard.connect() as first:
        first.sendall(raw)

        async def running():
            while guard.guard.running != 1:
                await asyncio.sleep(0.005)

        guard.call(asyncio.wait_for(running(), 10))
        for _ in range(5):
            answer = guard.exchange()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: " in answer
        release.set()
        assert first.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert guard.exchange().startswith(b"HTTP/1.1 200 ")
    assert guard.exchange().startswith(b"HTTP/1.1 429 ")


def test_a_flood_gives_its_newest_place_in_the_queue_to_another_client(start_guard):
    keys = tuple(ApiKey(name=name, sha256=sha256(name.encode()).hexdigest()) for name in ("flood", "other"))
    policy = Policy(auth="keys", keys=keys, concurrency=Concurrency(max_running=1, max_waiting=2))
    guard = start_guard(hang, policy)
    body = b'{"messages":[{"role":"user","content":"hi"}]}'

    def ask(key):
        connection = guard.connect()
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %b\r\n"
            b"Content-Length: %d\r\n\r\n" % (key, len(body)) + body
        )
        return connection

    async def until(running, waiting):
        while (guard.guard.running, guard.guard.waiting) != (running, waiting):
            await asyncio.sleep(0.005)

    connections = []
    for waiting in range(3):
        connections.append(ask(b"flood"))
        guard.call(asyncio.wait_for(until(1, waiting), 10))
    connections.append(ask(b"other"))
    answer = connections[2].recv(4096)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: " in answer
    assert (guard.guard.running, guard.guard.waiting) == (1, 2)
    for connection in connections:
        connection.close()
    guard.call(asyncio.wait_for(until(0, 0), 10))


def test_a_plan_with_priority_gets_more_of_a_busy_server(start_guard):
    released = threading.Event()

    async def held(seen, writer):
        while not released.is_set():
            await asyncio.sleep(0.005)
        writer.write(answer(CHAT))

    def key(name, plan=None):
        return ApiKey(name=name, sha256=sha256(name.encode()).hexdigest(), plan=plan)

    guard = start_guard(
        held,
        Policy(
            auth="keys",
            keys=(key("first"), key("plain"), key("paying", "pro")),
            plan={"pro": Plan(priority=4.0)},
            concurrency=Concurrency(max_running=1),
        ),
    )

    async def until(waiting):
        while guard.guard.waiting != waiting:
            await asyncio.sleep(0.005)

    connections = []
    for place, name in enumerate(["first", *["plain"] * 4, *["paying"] * 4]):
        connections.append(guard.connect())
        connections[-1].sendall(
            post({"messages": [{"role": "user", "content": name}]}, headers=f"Authorization: Bearer {name}\r\n")
        )
        guard.call(asyncio.wait_for(until(place), 10))
    released.set()
    guard.settled(9)
    order = [seen.json["messages"][0]["content"] for seen in guard.server.seen]
    assert order == ["first", "plain", *["paying"] * 4, *["plain"] * 3]
    for connection in connections:
        connection.close()


def test_who_waits_too_long_is_refused(start_guard):
    policy = replace(OPEN, concurrency=Concurrency(max_running=1, max_wait=0.2))
    guard = start_guard(hang, policy)
    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    with guard.connect() as first:
        first.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )

        async def running():
            while guard.guard.running != 1:
                await asyncio.sleep(0.005)

        guard.call(asyncio.wait_for(running(), 10))
        said = guard.exchange()
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"No place came free within 0.2 seconds. Please try again in " in said


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
def test_a_server_that_speaks_no_http_is_a_bad_gateway(start_guard, raw):
    async def broken(seen, writer):
        writer.write(raw)
        writer.close()

    guard = start_guard(broken, replace(OPEN, limits=(LimitRule(name="client", quota=Quota(1, 3600.0)),)))
    for _ in range(3):  # the quota is given back each time
        assert guard.exchange().startswith(b"HTTP/1.1 502 ")
    assert guard.guard.running == 0


def test_a_server_that_is_not_there_is_a_bad_gateway(start_guard):
    guard = start_guard(policy=replace(OPEN, upstream=Upstream(url="http://127.0.0.1:1")))
    answer = guard.exchange()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"Retry-After" in answer


def test_a_server_that_never_answers_times_out(start_guard):
    guard = start_guard(hang, replace(OPEN, upstream=replace(Upstream(), first_byte_timeout=0.2)))
    assert guard.exchange().startswith(b"HTTP/1.1 504 ")
    assert guard.settled(1)[0].ending == "timed-out"


def test_a_server_that_dies_in_a_plain_answer_leaves_the_framing_open(start_guard):
    async def dies(seen, writer):
        writer.write(STREAM_HEAD.replace(b"event-stream", b"plain") + chunk(b"data: 1\n\n"))
        await writer.drain()
        writer.close()

    guard = start_guard(dies)
    answer = guard.exchange()
    assert b"data: 1" in answer
    assert not answer.endswith(b"0\r\n\r\n")
    assert guard.settled(1)[0].ending == "upstream-failed"


def test_a_kept_connection_that_was_closed_is_tried_again(start_guard):
    async def once(seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    guard = start_guard(once)
    for _ in range(20):
        assert guard.exchange().startswith(b"HTTP/1.1 200 ")


def test_a_second_answer_to_one_request_reaches_nobody(start_guard):
    async def twice(seen, writer):
        one = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n"
        writer.write(one + b'{"a":1}' + one + b'{"b":2}')

    guard = start_guard(twice)
    for _ in range(5):
        answer = guard.exchange()
        assert b'{"a":1}' in answer
        assert b'{"b":2}' not in answer


def test_an_answer_without_length_ends_with_its_connection(start_guard):
    async def old(seen, writer):
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{}")
        await writer.drain()
        writer.close()

    answer = start_guard(old).exchange()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert dechunk(answer.partition(b"\r\n\r\n")[2]) == b"{}"


def test_a_client_that_does_not_read_holds_the_server_back(start_guard):
    written = []

    async def flood(seen, writer):
        writer.write(STREAM_HEAD)
        for _ in range(1000):
            writer.write(chunk(b"x" * 65536))
            written.append(65536)
            await writer.drain()

    policy = replace(OPEN, bounds=replace(Bounds(), write_timeout=0.5))
    guard = start_guard(flood, policy)
    connection = guard.connect()
    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    record = guard.settled(1)[0]
    connection.close()
    assert record.ending == "client-left"
    assert sum(written) < 40_000_000
    assert guard.guard.running == 0


def test_running_streams_finish_when_the_guard_stops(start_guard):
    go_on = threading.Event()

    async def held(seen, writer):
        writer.write(STREAM_HEAD + chunk(b"data: 1\n\n"))
        await writer.drain()
        await asyncio.to_thread(go_on.wait, 10)
        writer.write(chunk(b"data: 2\n\n") + b"0\r\n\r\n")

    guard = start_guard(held)
    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    with guard.connect() as connection, guard.connect() as idle:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        seen = connection.recv(4096)
        stopping = asyncio.run_coroutine_threadsafe(guard.guard.stop(10), guard.loop)
        assert idle.recv(10) == b""
        with pytest.raises(ConnectionError):
            guard.connect()
        go_on.set()
        while part := connection.recv(4096):
            seen += part
        assert b"data: 2" in seen
        assert seen.endswith(b"0\r\n\r\n")
        stopping.result(10)
