"""Streams that do not end by themselves: cut off at what they may have, broken off, silent, and endless."""

import asyncio
import json
import threading
from dataclasses import replace

import pytest

from corral.policy.model import Bounds, Generation, LimitRule, Policy, Quota, Upstream
from running_guard import post

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
OPEN = Policy(auth="none", generation=Generation(max_tokens=10))
CHAT = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
PROMPT = {"prompt": "hi", "stream": True}
MESSAGES = "/v1/messages"
ROUTES = ["/v1/chat/completions", "/v1/completions", "/completion", "/v1/responses", MESSAGES]


def body(path):
    if path.endswith("completions") or path == "/completion":
        return CHAT if "chat" in path else PROMPT
    return {"input": "hi", "stream": True} if "responses" in path else CHAT


def event(path: str, number: int) -> bytes:
    """The event of a token on `path`."""
    values = {
        "/v1/chat/completions": {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]},
        "/v1/completions": {"id": "c", "model": "m", "choices": [{"index": 0, "text": "a", "finish_reason": None}]},
        "/completion": {"index": 0, "content": "a", "stop": False, "tokens_predicted": number, "tokens_evaluated": 9},
        "/v1/responses": {"type": "response.output_text.delta", "item_id": "i", "delta": "a"},
        MESSAGES: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
    }  # fmt: skip
    name = b"event: %b\n" % values[path]["type"].encode() if "type" in values[path] else b""
    return name + b"data: " + json.dumps(values[path], separators=(",", ":")).encode() + b"\n\n"


FIRST = {
    "/v1/responses": b'event: response.created\ndata: {"type":"response.created","response":{"id":"r"}}\n\n',
    MESSAGES: b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":2}}}\n\n',
}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def endless(path: str, *, at_once: int = 1, pause: float = 0.0):
    """A server that goes on, `at_once` events in each write, until its client has gone."""

    async def handler(seen, writer):
        writer.write(HEAD + chunk(FIRST.get(path, event(path, 1))))
        for number in range(100_000):
            if writer.is_closing():
                raise ConnectionResetError
            writer.write(chunk(event(path, number) * at_once))
            await writer.drain()
            await asyncio.sleep(pause)

    return handler


def stream(guard, path="/v1/chat/completions", **more):
    """Ask for a stream; returns its events, whether it ended well, and its record."""
    answer = guard.exchange({**body(path), **more}, path=path)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    events = b""
    while rest and not rest.startswith(b"0\r\n\r\n"):
        size, _, rest = rest.partition(b"\r\n")
        events += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return events, rest == b"0\r\n\r\n", guard.settled(1)[0]


def parsed(events: bytes):
    return [json.loads(line[6:]) for line in events.splitlines() if line.startswith(b"data: {")]


def is_end(path: str, events: bytes) -> bool:
    last = parsed(events)[-1]
    if path == "/completion":
        return (last["stop"], last["stop_type"]) == (True, "limit")
    if path == "/v1/responses":
        return last["response"]["incomplete_details"]["reason"] == "max_output_tokens"
    if path == MESSAGES:
        before = parsed(events)[-2]
        return last["type"] == "message_stop" and before["delta"]["stop_reason"] == "max_tokens"
    return last["choices"][0]["finish_reason"] == "length" and events.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("at_once", [1, 50])
def test_a_server_that_ignores_the_maximum_is_cut_off(start_guard, path, at_once):
    guard = start_guard(endless(path, at_once=at_once), OPEN)
    events, well, record = stream(guard, path)
    assert well
    assert 10 <= events.count(event(path, 1).partition(b"data: ")[2][:24]) <= 14
    assert is_end(path, events)
    assert (record.status, record.ending) == (200, "cut-off")
    assert 10 <= record.completion_tokens <= 13 or path == "/completion"
    assert guard.server.gone.wait(10)
    assert guard.guard.running == 0


def test_several_answers_have_a_maximum_each(start_guard):
    guard = start_guard(
        endless("/v1/chat/completions"), replace(OPEN, generation=Generation(max_tokens=10, max_choices=3))
    )
    events, _, record = stream(guard, n=3)
    assert 30 <= record.completion_tokens <= 36
    assert record.ending == "cut-off"


def test_what_passed_is_charged_even_beyond_what_was_held(start_guard):
    rule = LimitRule(name="answers", quota=Quota(1000, 3600.0, "output tokens"), algorithm="window")
    guard = start_guard(endless("/v1/chat/completions"), replace(OPEN, limits=(rule,)))
    _, _, record = stream(guard)
    assert record.completion_tokens > 10
    pipeline = guard.guard._core.pipeline

    async def left():
        caller = pipeline._callers.admit("127.0.0.1", None)
        return pipeline._store.peek(caller.token_limits, guard.loop.time())[0].remaining

    assert guard.call(left()) == 1000 - record.completion_tokens


@pytest.mark.parametrize(("room", "ending"), [(5000, "answered"), (70, "cut-off")])
def test_a_prompt_longer_than_estimated_takes_from_the_quota_and_then_from_the_answer(start_guard, room, ending):
    """Estimated at a few tokens, counted as 60: where the quota has no more, the answer has to be shorter."""
    path = "/completion"

    async def counts(seen, writer):
        writer.write(HEAD)
        for number in range(1, 41):
            writer.write(chunk(event(path, number).replace(b":9}", b":60}")))
            await writer.drain()
        writer.write(
            chunk(b'data: {"index":0,"stop":true,"tokens_predicted":40,"tokens_evaluated":60}\n\n') + b"0\r\n\r\n"
        )

    rule = LimitRule(name="all", quota=Quota(room, 3600.0, "tokens"), algorithm="window")
    guard = start_guard(counts, replace(OPEN, limits=(rule,), generation=Generation(max_tokens=50)))
    events, well, record = stream(guard, path)
    assert well
    assert record.ending == ending
    assert guard.guard._core.pipeline._store.held == 0


def test_an_answer_of_too_many_bytes_is_cut_off(start_guard):
    policy = replace(OPEN, generation=Generation(max_tokens=100_000), upstream=replace(Upstream(), max_answer=5000))
    guard = start_guard(endless("/v1/chat/completions"), policy)
    events, well, record = stream(guard)
    assert well
    assert len(events) < 5300
    assert is_end("/v1/chat/completions", events)
    assert record.ending == "cut-off"
    assert guard.server.gone.wait(10)


@pytest.mark.parametrize("path", ROUTES)
def test_a_stream_that_is_out_of_time_ends_well(start_guard, path):
    policy = replace(OPEN, generation=Generation(max_tokens=100_000), bounds=replace(Bounds(), total_timeout=0.6))
    guard = start_guard(endless(path, pause=0.01), policy)
    events, well, record = stream(guard, path)
    assert well
    assert is_end(path, events)
    assert record.ending == "timed-out"
    assert guard.server.gone.wait(10)


def breaks_off(path: str, after: bytes = b""):
    async def handler(seen, writer):
        writer.write(HEAD + chunk(FIRST.get(path, b"") + event(path, 1)) + after)
        await writer.drain()
        writer.close()

    return handler


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("after", [b"", chunk(b'data: {"choices":[{"del')])
def test_a_server_that_breaks_off_is_told_as_an_error(start_guard, path, after):
    guard = start_guard(breaks_off(path, after), OPEN)
    events, well, record = stream(guard, path)
    assert well
    assert "broke off" in parsed(events)[-1]["error"]["message"]
    assert record.ending == "upstream-failed"
    if path in (MESSAGES, "/v1/responses"):
        assert b"event: error\n" in events


def test_a_server_that_breaks_off_behind_its_last_event_has_said_all(start_guard):
    done = chunk(b"data: [DONE]\n\n")
    guard = start_guard(breaks_off("/v1/chat/completions", done), OPEN)
    events, well, _ = stream(guard)
    assert well
    assert events.endswith(b"data: [DONE]\n\n")
    assert b"error" not in events


def silent(*pieces: bytes):
    async def handler(seen, writer):
        writer.write(HEAD)
        for piece in pieces:
            writer.write(chunk(piece))
        await writer.drain()
        await asyncio.sleep(60)

    return handler


@pytest.mark.parametrize("pieces", [(), (b": still there\n\n",), (b'data: {"choi',)])
def test_a_head_is_no_first_token(start_guard, pieces):
    policy = replace(OPEN, upstream=replace(Upstream(), first_byte_timeout=0.3, idle_timeout=60.0))
    guard = start_guard(silent(*pieces), policy)
    events, well, record = stream(guard)
    assert well
    assert parsed(events)[-1]["error"]["code"] == "upstream_timeout"
    assert record.ending == "timed-out"


def test_silence_between_tokens_is_bounded_though_the_server_pings(start_guard):
    async def pings(seen, writer):
        writer.write(HEAD + chunk(event("/v1/chat/completions", 1)))
        while True:
            writer.write(chunk(b": ping\n\n"))
            await writer.drain()
            await asyncio.sleep(0.02)

    guard = start_guard(pings, replace(OPEN, upstream=replace(Upstream(), idle_timeout=0.3)))
    events, well, record = stream(guard)
    assert well
    assert b": ping" in events
    assert parsed(events)[-1]["error"]["code"] == "upstream_timeout"
    assert record.ending == "timed-out"


def test_a_stream_with_a_length_is_relayed_too(start_guard):
    events = event("/v1/chat/completions", 1) * 3 + b"data: [DONE]\n\n"

    async def at_once(seen, writer):
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b"
            % (len(events), events)
        )

    seen, well, record = stream(start_guard(at_once, OPEN))
    assert (seen, well, record.ending) == (events, True, "answered")


def test_a_client_of_http_1_0_is_cut_off_too(start_guard):
    guard = start_guard(endless("/v1/chat/completions"), OPEN)
    answer = guard.send(post(CHAT).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert b"Transfer-Encoding" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")


def test_the_connection_is_kept_behind_a_cut_off(start_guard):
    guard = start_guard(endless("/v1/chat/completions"), OPEN)
    with guard.connect() as connection:
        for _ in range(3):
            connection.sendall(post(CHAT))
            seen = b""
            while not seen.endswith(b"0\r\n\r\n"):
                part = connection.recv(65536)
                assert part
                seen += part
    assert [record.ending for record in guard.settled(3)] == ["cut-off"] * 3


def test_what_passes_counts_as_service_before_the_answer_has_ended(start_guard):
    go_on = threading.Event()

    async def long(seen, writer):
        writer.write(HEAD)
        for number in range(100):
            writer.write(chunk(event("/v1/chat/completions", number)))
        await writer.drain()
        await asyncio.to_thread(go_on.wait, 10)
        writer.write(b"0\r\n\r\n")

    guard = start_guard(long, replace(OPEN, generation=Generation(max_tokens=1000)))
    with guard.connect() as connection:
        connection.sendall(post(CHAT))
        seen = b""
        while seen.count(b"data: ") < 100:
            seen += connection.recv(65536)
        admission = guard.guard._core.admission

        async def used():
            return [used for *_, used in admission._uncounted.values()]

        (used,) = guard.call(used())
        assert 2 * (100 - 32 - 1) <= used <= 2 * 100
        go_on.set()
        connection.recv(65536)


@pytest.mark.parametrize("kind", [b"application/json", b"text/event-stream"])
def test_no_trailer_and_no_hop_by_hop_header_of_the_server_passes(start_guard, kind):
    async def trails(seen, writer):
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\nTrailer: X-Secret\r\nServer: llama.cpp\r\n"
            b"Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-Powered-By: C++\r\n\r\n"
            % kind
            + chunk(b"data: {}\n\n")
            + b"0\r\nX-Secret: 1\r\nRetry-After: 7\r\nContent-Type: text/html\r\n\r\n"
        )

    guard = start_guard(trails, OPEN)
    said = guard.exchange(CHAT)
    assert said.endswith(b"data: {}\n\n\r\n0\r\n\r\n")
    head = said.partition(b"\r\n\r\n")[0].lower()
    for name in (
        b"secret",
        b"hop",
        b"llama",
        b"keep-alive",
        b"proxy-",
        b"powered",
        b"retry-after",
        b"trailer",
        b"html",
    ):
        assert name not in head
