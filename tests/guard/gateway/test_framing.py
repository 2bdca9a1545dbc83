"""What the gateway accepts as HTTP/1.1, and what it refuses."""

import json
from dataclasses import replace

import pytest

from corral.policy.model import Bounds, Policy

OPEN = Policy(auth="none")


def tight(**bounds: float) -> Policy:
    return replace(OPEN, bounds=replace(Bounds(), **bounds))  # type: ignore[arg-type]


def post(body: bytes, headers: str = "") -> bytes:
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


CHAT = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\nHost: x\nContent-Length: 0\n\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nHost: y\r\nContent-Length: 0\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_not_strict_http_is_refused_and_the_connection_closed(start_guard, raw):
    guard = start_guard()
    answer = guard.send(raw)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b"Connection: close" in answer
    assert answer.partition(b"\r\n\r\n")[2].count(b"HTTP/1.1 400") == 0
    assert guard.server.seen == []


def test_answers_come_in_the_order_of_pipelined_requests(start_guard):
    guard = start_guard()
    unknown = b"GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    raw = post(CHAT) + unknown + post(CHAT) + post(CHAT, "Connection: close\r\n")
    answer = guard.send(raw)
    statuses = [line.split()[1] for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"404", b"200", b"200"]


def test_a_client_that_sends_far_ahead_of_its_answers_is_cut_off(start_guard):
    guard = start_guard()
    answer = guard.send(post(CHAT) * 200)
    assert answer.count(b"HTTP/1.1 ") < 200
    guard.settled(1)
    assert guard.guard.running == 0


@pytest.mark.parametrize("cut", [1, 17, 60, 120])
def test_a_request_may_arrive_in_pieces(start_guard, cut):
    guard = start_guard()
    raw = post(CHAT, "Connection: close\r\n")
    with guard.connect() as connection:
        for start in range(0, len(raw), cut):
            connection.sendall(raw[start : start + cut])
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_chunked_body_is_read_and_forwarded_with_a_length(start_guard):
    guard = start_guard()
    chunks = b"".join(b"%x;x=1\r\n%b\r\n" % (len(CHAT[i : i + 7]), CHAT[i : i + 7]) for i in range(0, len(CHAT), 7))
    raw = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n"
    )
    assert guard.send(raw).startswith(b"HTTP/1.1 200 ")
    assert "transfer-encoding" not in guard.server.seen[0].head
    assert guard.server.seen[0].json["messages"][0]["content"] == "hi"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_beyond_its_bound_is_refused(start_guard, framing):
    guard = start_guard(policy=tight(max_body=1000))
    body = b'{"messages":"' + b"x" * 2000 + b'"}'
    if framing == "length":
        raw = post(body)
    else:
        raw = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        )
    answer = guard.send(raw)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close" in answer
    assert guard.server.seen == []


def test_a_body_beyond_its_bound_is_refused_before_it_is_sent(start_guard):
    guard = start_guard()
    answer = guard.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("pieces", [1, 50])
def test_a_head_beyond_its_bound_is_refused(start_guard, pieces):
    guard = start_guard()
    raw = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n"
    step = len(raw) // pieces
    with guard.connect() as connection:
        answer = b""
        try:
            for start in range(0, len(raw), step):
                connection.sendall(raw[start : start + step])
            while part := connection.recv(65536):
                answer += part
        except ConnectionError:
            pass
    assert answer.startswith(b"HTTP/1.1 431 ") or answer == b""
    assert guard.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 200"
    )


def test_too_many_header_fields_are_refused(start_guard):
    guard = start_guard()
    fields = b"".join(b"X-%d: y\r\n" % number for number in range(100))
    assert guard.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n" + fields + b"\r\n").startswith(b"HTTP/1.1 431 ")


def test_expect_is_answered_before_the_body_comes(start_guard):
    guard = start_guard()
    with guard.connect() as connection:
        head, _, body = post(CHAT, "Expect: 100-continue\r\nConnection: close\r\n").partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_a_refused_client_that_expects_is_not_asked_for_its_body(start_guard):
    guard = start_guard()
    answer = guard.send(
        b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"Connection: close" in answer


def test_the_body_of_a_refused_request_is_read_over_and_the_connection_kept(start_guard):
    guard = start_guard()
    with guard.connect() as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"x" * 100 + post(CHAT, "Connection: close\r\n"))
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_head_has_no_body(start_guard):
    guard = start_guard()
    for path in (b"/health", b"/v1/models", b"/nowhere"):
        answer = guard.send(b"HEAD " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert answer.endswith(b"\r\n\r\n")
        assert answer.count(b"\r\n\r\n") == 1


def test_an_http_1_0_client_gets_no_chunks(start_guard):
    async def stream(seen, writer):
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"9\r\ndata: 1\n\n\r\n0\r\n\r\n"
        )

    guard = start_guard(stream)
    answer = guard.send(
        b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(CHAT) + CHAT,
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == b"data: 1\n\n"


def test_a_head_that_crawls_is_ended(start_guard):
    guard = start_guard(policy=tight(head_timeout=0.2))
    assert guard.send(b"GET /health HTTP/1.1\r\nHost: 127").startswith(b"HTTP/1.1 408 ")


def test_a_body_that_crawls_is_ended(start_guard):
    guard = start_guard(policy=tight(body_timeout=0.2))
    assert guard.send(post(CHAT)[:-5]).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("first", [b"", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"])
def test_an_idle_connection_is_closed_silently(start_guard, first):
    guard = start_guard(policy=tight(idle_timeout=0.2, head_timeout=0.2))
    answer = guard.send(first)
    assert answer.count(b"HTTP/1.1 ") == (1 if first else 0)


def test_connections_from_one_address_are_bounded(start_guard):
    guard = start_guard(policy=tight(max_connections_per_address=3))
    kept = [guard.connect() for _ in range(3)]
    for connection in kept:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert guard.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") == b""
    for connection in kept:
        connection.close()
