"""Ten thousand malformed requests: no trace, no hung connection, no leaked place, and the next honest one is served."""

import asyncio
import json
import logging
import random
import socket
from dataclasses import replace

from corral.policy.model import Bounds, Concurrency, LimitRule, Policy, Quota

COUNT = 10_000
TEMPLATE = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "stream": False}).encode()
METHODS = [
    b"GET",
    b"POST",
    b"PUT",
    b"OPTIONS",
    b"HEAD",
    b"DELETE",
    b"CONNECT",
    b"TRACE",
    b"PRI",
    b"\x16\x03\x01",
    b"post",
]
TARGETS = [b"/v1/chat/completions", b"/completion", b"/slots", b"/", b"*", b"http://x/", b"/%00", b"//", b"/v1/models?" + b"a" * 300,
           b"/tokenize", b"/v1/messages", b"/health", b"/\xff"]  # fmt: skip
HEADERS = [b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length: 0x5",
           b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding : chunked",
           b"Expect: 100-continue", b"Connection: close", b"Connection: upgrade\r\nUpgrade: h2c", b"X: " + b"y" * 2000,
           b"Host: a\r\nHost: b", b" folded", b"No-Colon", b"\x00: \x00", b"Authorization: Bearer \xff\xfe", b"Origin: null",
           b"Content-Type: text/plain", b"X-Forwarded-For: 999.999.999.999"]  # fmt: skip
VALUES = [None, True, -1, 0, 1e308, 2**63, 2**70, "x", "", [], {}, [[]], {"a": {}}, "\x00", [1, "a", None], -0.0]
FIELDS = ["messages", "prompt", "max_tokens", "n_predict", "n", "stream", "temperature", "stop", "logit_bias", "tools", "model",
          "response_format", "grammar", "seed", "top_k", "input", "n_probs", "chat_template_kwargs", "content"]  # fmt: skip


def fuzzed(random_: random.Random) -> bytes:
    kind = random_.randrange(5)
    if kind == 0:
        return random_.randbytes(random_.randrange(1, 400))
    if kind == 1:
        body = json.dumps(
            {random_.choice(FIELDS): random_.choice(VALUES) for _ in range(random_.randrange(6))}
        ).encode()
        body = body.replace(b"1e+308", random_.choice([b"1e999", b"NaN", b"1e+308"]))
    elif kind == 2:
        body = bytearray(TEMPLATE)
        for _ in range(random_.randrange(1, 6)):
            body[random_.randrange(len(body))] = random_.randrange(256)
        body = bytes(body)
    elif kind == 3:
        body = random_.choice([b"[", b"{"]) * random_.randrange(1, 2000)
    else:
        body = TEMPLATE[: random_.randrange(len(TEMPLATE))]
    lines = [
        random_.choice(METHODS)
        + b" "
        + random_.choice(TARGETS)
        + random_.choice([b" HTTP/1.1", b" HTTP/1.0", b"", b" HTTP/9.9"])
    ]
    lines += [b"Host: 127.0.0.1"] * random_.randrange(2) + random_.choices(HEADERS, k=random_.randrange(3))
    if random_.random() < 0.7:
        lines = [b"POST " + random_.choice(TARGETS[:2]) + b" HTTP/1.1", b"Host: 127.0.0.1", *lines[2:]]
        lines.append(b"Content-Length: %d" % (len(body) + random_.choice([0, 0, 0, 0, 1, -1 if body else 0])))
    raw = b"\r\n".join(lines) + b"\r\n\r\n" + body
    if random_.random() < 0.1:
        raw = raw[: random_.randrange(1, len(raw))]
    return raw * random_.choice([1, 1, 1, 1, 2])


def test_ten_thousand_malformed_requests_leave_nothing_behind(start_guard, caplog):
    policy = Policy(
        auth="none",
        limits=(LimitRule(name="client", quota=Quota(10**9, 1.0)),),
        max_failed_logins=Quota(10**9, 1.0),
        concurrency=Concurrency(max_running=2, max_waiting=4),
        bounds=replace(Bounds(), head_timeout=0.5, body_timeout=0.5, idle_timeout=0.5),
    )
    guard = start_guard(policy=policy)
    random_ = random.Random(20261123)
    answered = 0
    with caplog.at_level(logging.WARNING):
        for _ in range(COUNT):
            with socket.create_connection(("127.0.0.1", guard.port), timeout=20) as connection:
                try:
                    connection.sendall(fuzzed(random_))
                    connection.shutdown(socket.SHUT_WR)
                    while part := connection.recv(65536):
                        answered += part.count(b"HTTP/1.1 ")
                except ConnectionError:
                    pass
    assert [(record.getMessage(), str(record.exc_info)) for record in caplog.records] == []
    assert answered > COUNT // 3
    assert all(record.refused != "internal" for record in guard.records)
    assert guard.exchange().startswith(b"HTTP/1.1 200 ")

    async def settle() -> tuple[int, int, int]:
        for _ in range(200):
            if not guard.guard.running and not guard.guard.connections:
                break
            await asyncio.sleep(0.05)
        return guard.guard.running, guard.guard.waiting, guard.guard.connections

    assert guard.call(settle()) == (0, 0, 0)
