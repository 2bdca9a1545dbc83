"""What one turn of the loop does to the next: nothing is lost, doubled, or left without an end."""

import asyncio
import socket
import time

from corral.policy.model import Bounds, Concurrency, Policy, Upstream
from running_guard import CHAT, answer, post

BODY = {"messages": [{"role": "user", "content": "hi"}]}


async def hang(seen, writer):
    await asyncio.sleep(60)


def test_who_waits_with_more_behind_it_is_refused_in_time_and_the_next_too(start_guard):
    guard = start_guard(hang, Policy(auth="none", concurrency=Concurrency(max_running=1, max_wait=0.3)))
    with guard.connect() as first, guard.connect() as second:
        first.sendall(post(BODY))
        second.sendall(post(BODY) * 3)
        seen = b""
        while seen.count(b"HTTP/1.1 503 ") < 3:
            part = second.recv(65536)
            assert part
            seen += part
    for record in guard.settled(4):
        assert record.request_id


def test_pipelined_requests_are_all_answered(start_guard):
    guard = start_guard()
    with guard.connect() as client:
        client.sendall(post(BODY) * 20)
        seen = b""
        while seen.count(b"HTTP/1.1 200 ") < 20:
            part = client.recv(65536)
            assert part
            seen += part
    assert len({record.request_id for record in guard.settled(20)}) == 20


def test_who_reads_nothing_is_noticed_before_the_turn_is_over(start_guard):
    guard = start_guard(policy=Policy(auth="none", bounds=Bounds(write_timeout=1.0)))
    with guard.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(0.5)
        sent = 0
        try:
            while sent < 8_000_000:
                sent += client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 2000)
        except (TimeoutError, ConnectionError):
            pass
    assert sent < 8_000_000


def test_an_answer_too_long_that_ends_in_the_same_read_ends_once(start_guard):
    async def long(seen, writer):
        writer.write(answer(b"x" * 3000))

    guard = start_guard(long, Policy(auth="none", upstream=Upstream(max_answer=2000)))
    assert guard.exchange().startswith(b"HTTP/1.1 502 ")
    guard.exchange()
    assert [record.ending for record in guard.settled(2)] == ["cut-off", "cut-off"]


def test_a_broken_request_behind_an_answered_one_has_an_id_of_its_own(start_guard):
    guard = start_guard()
    with guard.connect() as client:
        client.sendall(post(BODY))
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"\0 what?\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 400 ")
    first, second = guard.settled(2)
    assert first.request_id != second.request_id
    assert second.duration < 5


def test_garbage_while_health_is_asked_is_not_taken_for_its_answer(start_guard):
    async def slow(seen, writer):
        await asyncio.sleep(0.3)
        writer.write(answer(CHAT))

    guard = start_guard()
    guard.server.probe = slow
    (server,) = guard.guard._core.upstreams.servers
    server.found_at, before = 0.0, len(guard.server.probes)
    with guard.connect() as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        deadline = time.monotonic() + 5
        while len(guard.server.probes) == before and time.monotonic() < deadline:
            time.sleep(0.005)
        client.sendall(b"\0\r\n\r\n")
        try:
            assert client.recv(65536) == b""
        except ConnectionError:
            pass
