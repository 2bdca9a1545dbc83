"""Servers that break off, answer nonsense or answer too early: the client is told, and nothing is passed on by mistake."""

import asyncio
import socket
import threading
from dataclasses import replace

import pytest

from corral.policy.model import Bounds, Generation, LimitRule, Policy, Quota, Upstream
from running_guard import CHAT, answer, post

OPEN = Policy(auth="none", limits=(LimitRule(name="client", quota=Quota(1_000_000, 1.0)),))


def breaks_off(raw: bytes):
    async def handler(seen, writer):
        writer.write(raw)
        await writer.drain()
        writer.close()

    return handler


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n",
        b"HTTP/1.1 103 Early Hints\r\nContent-Type: text/plain\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nContent-Type: text/plain\r\n\r\nHTTP/1.1 200 OK\r\n",
    ],
)
def test_a_server_that_breaks_off_before_its_answer_is_a_bad_gateway(start_guard, raw):
    guard = start_guard(breaks_off(raw), OPEN)
    assert guard.exchange().startswith(b"HTTP/1.1 502 ")
    record = guard.settled(1)[0]
    assert (record.status, record.ending) == (502, "upstream-failed")
    assert guard.guard.running == 0


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"])
def test_an_answer_that_ends_with_its_connection_is_relayed_whole(start_guard, head):
    guard = start_guard(breaks_off(head + b"\r\nhello"), OPEN)
    seen = guard.exchange()
    assert seen.startswith(b"HTTP/1.1 200 ")
    assert seen.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert guard.settled(1)[0].ending == "answered"


@pytest.mark.parametrize("status", [b"099", b"000", b"1"])
def test_a_status_that_is_none_never_reaches_the_client(start_guard, status):
    inner = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 4\r\n\r\npwnd"
    raw = b"HTTP/1.1 %b X\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (status, len(inner), inner)
    guard = start_guard(breaks_off(raw), OPEN)
    seen = guard.exchange()
    assert seen.startswith(b"HTTP/1.1 502 ")
    assert b"pwnd" not in seen
    assert guard.settled(1)[0].ending == "upstream-failed"


@pytest.mark.parametrize("piece", [b"X: " + b"a" * 200_000, b"X: a\r\n" * 30_000])
def test_a_server_whose_head_has_no_end_is_a_bad_gateway(start_guard, piece):
    async def endless(seen, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n" + piece)
        await asyncio.sleep(60)

    guard = start_guard(endless, OPEN)
    with guard.connect(3) as client:
        client.sendall(post({"messages": [{"role": "user", "content": "hi"}]}))
        assert client.recv(4096).startswith(b"HTTP/1.1 502 ")
    assert guard.settled(1)[0].ending == "upstream-failed"


def test_a_connection_whose_answer_came_before_the_request_was_sent_is_not_used_again(start_guard):
    """The rest of the request would be the beginning of the next one."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    kept = []

    def serve() -> None:
        status = "413 Content Too Large"
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            seen = b""
            while b"\r\n\r\n" not in seen and (part := connection.recv(1000)):
                seen += part
            if b"corral-probe" in seen:
                connection.close()
                continue
            kept.append(connection)
            connection.sendall(answer(CHAT, status))  # the first one's body is never read
            status = "200 OK"

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    policy = replace(
        OPEN,
        upstream=Upstream(url=f"http://127.0.0.1:{listener.getsockname()[1]}"),
        generation=Generation(max_prompt=10_000_000),
        bounds=replace(Bounds(), max_body=8_000_000),
    )
    guard = start_guard(policy=policy)
    with guard.connect(3) as client:
        client.sendall(post({"messages": [{"role": "user", "content": "a" * 7_000_000}]}))
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")
        client.sendall(post({"messages": [{"role": "user", "content": "hi"}]}))
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert len(kept) == 2
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    server.join(5)
    for connection in kept:
        connection.close()
