"""Clients that do not read, leave in crowds, or send what is hard to frame: nobody else notices."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from corral.policy.model import Bounds, Concurrency, LimitRule, Policy, Quota, Upstream
from running_guard import CHAT, RunningGuard, answer, api_key, post, read_all

OPEN = Policy(auth="none", limits=(LimitRule(name="client", quota=Quota(1_000_000, 1.0)),))
BODY = {"messages": [{"role": "user", "content": "hi"}]}
MODELS = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    """Close every connection that is entered, however the test ends."""
    with ExitStack() as stack:
        yield stack


def slow_reader(guard: RunningGuard) -> socket.socket:
    """Connect with so small a window that answers pile up on the guard's side."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(5)
    connection.connect(("127.0.0.1", guard.port))
    return connection


def read_answers(connection: socket.socket, count: int) -> bytes:
    """Read until so many heads have come, or the connection ends."""
    seen = b""
    while seen.count(b"HTTP/1.1 ") < count and (part := connection.recv(65536)):
        seen += part
    return seen


def statuses(seen: bytes) -> list[bytes]:
    return [part[:3] for part in seen.split(b"HTTP/1.1 ")[1:]]


def cut_off(guard: RunningGuard, connection: socket.socket, requests: bytes, seconds: float) -> bool:
    """Send the same refused requests again and again, and tell whether the guard ends the connection within `seconds`."""
    end = guard.loop.time() + seconds
    while guard.loop.time() < end:
        before = len(guard.records)
        try:
            connection.sendall(requests)
        except ConnectionError:
            return True
        try:
            guard.settled(before + requests.count(b"Host"), 0.1)
        except AssertionError:  # they are not read any more
            pass
    return False


async def until(reached) -> None:
    while not reached():
        await asyncio.sleep(0.005)


def test_a_client_that_does_not_read_leaves_no_paused_connection_to_the_next(start_guard):
    async def serve(seen, writer):
        writer.write(answer(b"x" * 120_000) if "models" in seen.line else answer(CHAT))

    guard = start_guard(serve, OPEN)
    with slow_reader(guard) as reader, guard.connect(3) as other:
        for _ in range(100):
            before = len(guard.records)
            reader.sendall(MODELS)
            try:
                guard.settled(before + 1, 0.3)
            except AssertionError:  # nothing more is relayed to it
                break
            other.sendall(post(BODY))
            assert read_answers(other, 1).startswith(b"HTTP/1.1 200 ")
        else:
            raise AssertionError("the guard never noticed that the client does not read")
        other.sendall(post(BODY))
        assert read_answers(other, 1).startswith(b"HTTP/1.1 200 ")


def test_clients_that_never_read_lose_their_places(start_guard, closing):
    async def serve(seen, writer):
        writer.write(answer({"x": "x" * 200_000}) if b"greedy" in seen.body else answer(CHAT))

    guard = start_guard(serve, replace(OPEN, bounds=replace(Bounds(), write_timeout=0.5)))
    greedy = post({"messages": [{"role": "user", "content": "greedy"}]})
    readers = [closing.enter_context(slow_reader(guard)) for _ in range(4)]
    for reader in readers:
        reader.sendall(greedy * 30)
    with guard.connect(4) as other:
        other.sendall(post(BODY))
        assert read_answers(other, 1).startswith(b"HTTP/1.1 200 ")
        guard.call(asyncio.wait_for(until(lambda: guard.guard.running == 0 and guard.guard.connections == 1), 4))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/nowhere"])
def test_a_client_that_never_reads_its_refusals_is_read_no_further_and_cut_off(start_guard, path):
    policy = replace(OPEN, auth="keys", keys=(api_key("alice", "a-key"),))
    guard = start_guard(policy=replace(policy, bounds=replace(Bounds(), write_timeout=0.5)))
    requests = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() * 200
    with slow_reader(guard) as reader:
        assert cut_off(guard, reader, requests, 3.0)
    assert len(guard.records) < 50_000


@pytest.mark.parametrize(("waiting", "leaving"), [(20, 1), (20, 2), (300, 1), (300, 2)])
def test_clients_that_leave_do_not_fail_those_that_wait(start_guard, closing, caplog, waiting, leaving):
    go_on = asyncio.Event()

    async def held(seen, writer):
        await go_on.wait()
        writer.write(answer(CHAT))

    policy = replace(
        OPEN,
        concurrency=Concurrency(max_running=2, max_waiting=waiting),
        upstream=replace(Upstream(), max_connections=3),
        bounds=replace(Bounds(), max_connections_per_address=1000),
    )
    guard = start_guard(held, policy)
    clients = []
    for number in range(2 + waiting):
        client = closing.enter_context(guard.connect())
        client.sendall(post(BODY))
        clients.append(client)
        if number < 2:  # those that run first are those that leave
            guard.call(asyncio.wait_for(until(lambda number=number: guard.guard.running == number + 1), 5))
    guard.call(asyncio.wait_for(until(lambda: (guard.guard.running, guard.guard.waiting) == (2, waiting)), 5))
    gone = threading.Event()
    guard.loop.call_soon_threadsafe(gone.wait, 5)  # the guard hears of all that leave in one turn of its loop
    for client in clients[:leaving]:
        client.close()
    gone.set()
    guard.settled(leaving)
    guard.loop.call_soon_threadsafe(go_on.set)
    for client in clients[leaving:]:
        assert read_answers(client, 1).startswith(b"HTTP/1.1 200 ")
    endings = [(record.ending, record.status) for record in guard.settled(2 + waiting)]
    assert endings.count(("client-left", 0)) == leaving
    assert endings.count(("answered", 200)) == 2 + waiting - leaving
    assert caplog.records == []


def test_requests_sent_ahead_are_answered_though_the_last_is_not_whole_yet(start_guard):
    guard = start_guard(policy=OPEN)
    one = post({"messages": [{"role": "user", "content": "hi" * 1500}]})
    with guard.connect(3) as client:
        client.sendall(one * 8 + one[:60])
        assert statuses(read_answers(client, 8)) == [b"200"] * 8
        client.sendall(one[60:])
        assert statuses(read_answers(client, 1)) == [b"200"]


def test_what_a_read_within_a_body_brings_is_not_taken_for_a_head_again(start_guard):
    guard = start_guard(policy=OPEN)
    second = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Who: smuggled\r\n\r\n"
    first = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(second)
    outer = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        % len(first)
    )
    with guard.connect(3) as client:
        client.sendall(outer)
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(first + second)  # a body that is no JSON, and a request
        assert statuses(read_answers(client, 2)) == [b"400", b"200"]
        client.sendall(first + second)  # the same bytes, which are one request now
        assert statuses(read_answers(client, 1)) == [b"400"]
    assert [seen.line for seen in guard.server.seen] == ["GET /v1/models HTTP/1.1"]


@pytest.mark.parametrize("fields", [b"X: " + b"a" * 600_000, b"X: a\r\n" * 4000])
def test_trailers_count_as_a_head_does(start_guard, fields):
    """What comes in the same read as the body is not counted yet: a field may be a read longer than the bound."""
    guard = start_guard(policy=OPEN)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with guard.connect(3) as client:
        client.sendall(head + b"2\r\n{}\r\n0\r\n")
        try:
            for start in range(0, len(fields), 4000):
                client.sendall(fields[start : start + 4000])
            seen = read_all(client)
        except ConnectionError:
            seen = b""
    assert statuses(seen) in ([b"431"], [b"413"], [b"400"], [])
    assert guard.server.seen == []


def test_a_refused_client_that_said_it_would_close_is_not_waited_for(start_guard):
    guard = start_guard(policy=OPEN)
    with guard.connect(3) as client:
        client.sendall(b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
        assert statuses(read_all(client)) == [b"404"]
        guard.call(asyncio.wait_for(until(lambda: guard.guard.connections == 0), 4))
