"""The example configurations do what they say, with the real proxies in front of the real guard and llama-server."""

import asyncio
import json
import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest

from asking_proxy import read_answer
from corral.policy.authz import for_authz
from corral.policy.model import Identity, LimitRule, Plan, Policy, Quota
from running_guard import answer, api_key, read_all
from running_proxies import CONFIGURATIONS, running_proxy

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
]
PROXIES = list(CONFIGURATIONS)
KEY = "Authorization: Bearer alices-key\r\n"
BODY = b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":8}'
POLICY = Policy(
    auth="keys",
    keys=(
        replace(api_key("alice", "alices-key"), plan="pro"),
        api_key("bob", "bobs-key"),
        api_key("root", "admins-key", admin=True),
    ),
    plan={"pro": Plan(limits=(LimitRule(name="pro", quota=Quota(1000, 60.0)),))},
    limits=(LimitRule(name="client", quota=Quota(2, 60.0)), LimitRule(name="address", quota=Quota(300, 60.0), per="address")),
    # The tests' clients come from 127.0.0.2, so that they are not taken for proxies.
    identity=Identity(trusted_proxies=("127.0.0.1/32",)),
)  # fmt: skip
PATHS = [
    "/v1/models", "//v1/models", "/v1/./models", "/health/../slots", "/slots", "/slots/", "/%73lots", "/sl%6Fts?x",
    "/v1/models/../../slots", "/v1%2fmodels", "/slots;x", "/slots%3fx", "/slots#x", "/SLOTS", "http://example.org/slots",
    "/health/..%2fslots", "/v1/models?key=alices-key", "/metrics", "/props", "/slots%00", "/\\slots", "/.//slots",
]  # fmt: skip


@pytest.fixture(params=PROXIES)
def behind(request, start_guard, tmp_path):
    """A guard, a scripted server, and the proxy in front of both."""

    async def serve(seen, writer):
        writer.write(answer({"status": "ok"}))

    guard = start_guard(serve, for_authz(POLICY), authz=True)
    with running_proxy(request.param, tmp_path, guard=guard.port, server=guard.server.port) as port:
        guard.server.seen.clear()
        yield SimpleNamespace(proxy=request.param, guard=guard, port=port, server=guard.server)


def exchange(port: int, raw: bytes, address: str = "127.0.0.2"):
    with socket.create_connection(("127.0.0.1", port), 30, source_address=(address, 0)) as connection:
        connection.sendall(raw)
        return read_all(connection)


def ask(behind, method="POST", path="/v1/chat/completions", headers="", body=BODY, address="127.0.0.2"):
    raw = (
        f"{method} {path} HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"{headers}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    return read_answer(exchange(behind.port, raw, address))


def test_what_is_admitted_is_relayed_without_the_key_and_with_its_clients_name(behind):
    lies = "X-Corral-Client: root\r\nX-Corral-Plan: gold\r\nX-Api-Key: bobs-key\r\n"
    got = ask(behind, path="/v1/chat/completions?x=1", headers=KEY + lies)
    assert (got.status, got.body) == (200, b'{"status": "ok"}')
    (seen,) = behind.server.seen
    assert (seen.line, seen.body) == ("POST /v1/chat/completions?x=1 HTTP/1.1", BODY)
    assert seen.head["x-corral-client"] == "alice"
    assert seen.head["x-corral-plan"] == "pro"
    assert "authorization" not in seen.head
    assert "x-api-key" not in seen.head
    assert "alices-key" not in str(seen.head)
    if behind.proxy in ("nginx", "envoy"):
        assert got.fields["ratelimit"].startswith('"pro";r=999')
        assert got.fields["x-request-id"] == behind.guard.records[-1].request_id
    ask(behind, headers="Authorization: Bearer bobs-key\r\nX-Corral-Plan: gold\r\n")
    assert behind.server.seen[1].head.get("x-corral-plan", "") == ""


def test_refusals_reach_the_client_as_they_are(behind):
    missing = ask(behind)
    assert (missing.status, missing.error["code"]) == (401, "missing_api_key")
    assert missing.fields["www-authenticate"].startswith("Bearer")
    assert ask(behind, headers="Authorization: Bearer wrong\r\n").error["code"] == "invalid_api_key"
    assert ask(behind, "POST", "/props", KEY).status == 403
    assert ask(behind, "GET", "/slots", KEY).status == 403
    nowhere = ask(behind, path="/nowhere", headers=KEY)
    assert (nowhere.status, nowhere.error["code"]) == (404, "not_found")
    assert ask(behind, "DELETE", "/v1/models", KEY).status == 405
    assert ask(behind, path="/v1/models?api_key=alices-key").error["code"] == "key_in_url"
    assert ask(behind, headers=f"{KEY}Origin: http://evil.example\r\n").status == 200
    page = exchange(
        behind.port,
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{KEY}Origin: http://evil.example\r\n"
        "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}".encode(),
    )
    assert page.startswith(b"HTTP/1.1 415 ")
    assert {seen.line for seen in behind.server.seen} == {"POST /v1/chat/completions HTTP/1.1"}


def test_a_used_up_quota_is_a_429_with_retry_after_and_the_clients_dialect(behind):
    bob = "X-Api-Key: bobs-key\r\n"
    assert [ask(behind, headers=bob).status for _ in range(2)] == [200, 200]
    refused = ask(behind, path="/v1/messages", headers=bob)
    assert refused.status == 429
    assert 0 < int(refused.fields["retry-after"]) <= 30
    assert refused.fields["ratelimit"].startswith('"client";r=0')
    assert refused.fields["content-type"] == "application/json"
    assert json.loads(refused.body)["error"]["type"] == "rate_limit_error"
    assert json.loads(refused.body)["error"]["violated-policies"] == ["client"]
    assert len(behind.server.seen) == 2


def test_nobody_becomes_somebody_else_by_a_header(behind):
    lies = (
        "X-Forwarded-For: 192.0.2.9\r\nX-Real-Ip: 192.0.2.9\r\nForwarded: for=192.0.2.9\r\nX-Forwarded-Method: GET\r\n"
        "X-Forwarded-Uri: /health\r\nX-Original-Uri: /health\r\nX-Original-Method: GET\r\nX-Corral-Status: 200\r\n"
        "X-Envoy-Original-Path: /health\r\nX-Envoy-External-Address: 192.0.2.9\r\nX-Original-Url: /health\r\n"
    )
    assert ask(behind, headers=lies).status in (401, 400)
    assert ask(behind, "GET", "/slots", KEY + lies).status in (403, 400)
    assert {record.address for record in behind.guard.records[-2:]} <= {"127.0.0.2", "127.0.0.1"}
    assert "192.0.2.9" not in str(behind.guard.records)
    # What a client says to be for one hop alone must not take away what the proxy tells.
    hop = "Connection: X-Forwarded-For, X-Forwarded-Uri, X-Original-Uri\r\n"
    raw = f"POST /nowhere HTTP/1.1\r\nHost: x\r\n{hop}{KEY}Content-Length: 0\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", behind.port), 30, source_address=("127.0.0.2", 0)) as connection:
        connection.sendall(raw)
        assert connection.recv(100).split()[1] in (b"404", b"400")
    assert behind.server.seen == []


def test_the_server_sees_no_path_but_one_that_was_judged(behind):
    for path in PATHS:
        raw = f"GET {path} HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n{KEY}\r\n".encode()
        exchange(behind.port, raw)
    lines = {seen.line for seen in behind.server.seen}
    assert lines == {"GET /v1/models HTTP/1.1"}


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_head_and_options_are_judged_as_what_they_are(behind, method):
    got = ask(behind, method, "/v1/models", KEY, body=b"")
    assert got.status == (200 if method == "HEAD" else 405)
    assert (got.body == b"") == (method == "HEAD")
    refused = exchange(
        behind.port, b"HEAD /slots HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + KEY.encode() + b"\r\n"
    )
    assert refused.startswith(b"HTTP/1.1 403 ")
    assert refused.endswith(b"\r\n\r\n")


def test_without_the_guard_nobody_gets_in(behind):
    behind.guard.call(behind.guard.guard.stop(0))
    status = {"nginx": 503, "caddy": 502, "traefik": 500, "envoy": 503}[behind.proxy]
    assert ask(behind, headers=KEY).status == status
    assert behind.server.seen == []


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_stream_passes_as_it_comes(proxy, start_guard, tmp_path):
    go_on = asyncio.Event()

    async def serve(seen, writer):
        if "/health" in seen.line:
            writer.write(answer({"status": "ok"}))
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"9\r\ndata: 1\n\n\r\n")
        await writer.drain()
        await go_on.wait()
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    guard = start_guard(serve, for_authz(POLICY), authz=True)
    with (
        running_proxy(proxy, tmp_path, guard=guard.port, server=guard.server.port) as port,
        socket.create_connection(("127.0.0.1", port), 30, source_address=("127.0.0.2", 0)) as connection,
    ):
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{KEY}"
        connection.sendall(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
        data = b""
        while b"data: 1" not in data:  # the server sends no more until this has come
            part = connection.recv(65536)
            assert part, data
            data += part
        guard.loop.call_soon_threadsafe(go_on.set)
        assert b"data: 2" in read_all(connection)


@pytest.mark.parametrize("proxy", PROXIES)
def test_llama_server_streams_through(proxy, start_guard, llama_server, tmp_path):
    guard = start_guard(policy=for_authz(POLICY), authz=True)
    server = int(llama_server.url.rpartition(":")[2])
    with running_proxy(proxy, tmp_path, guard=guard.port, server=server) as port:
        behind = SimpleNamespace(port=port)
        assert ask(behind).status == 401
        body = json.dumps(
            {"messages": [{"role": "user", "content": "Tell me"}], "max_tokens": 32, "stream": True}
        ).encode()
        request = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{KEY}"
        raw = request.encode() + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        data = exchange(port, raw)
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.count(b"data: ") > 20
    assert b"data: [DONE]" in data


# What bounds bodies in Traefik would hold streams back, so its example bounds none.
@pytest.mark.parametrize("behind", [proxy for proxy in PROXIES if proxy != "traefik"], indirect=True)
def test_bodies_are_bounded_by_the_proxy(behind):
    body = b'{"prompt":"' + b"x" * 1_200_000 + b'"}'
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{KEY}Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", behind.port), 30, source_address=("127.0.0.2", 0)) as connection:
        try:
            connection.sendall(head.encode() + body)
        except ConnectionError:
            pass  # it was refused before it was sent
        assert not read_all(connection).startswith(b"HTTP/1.1 200 ")
    assert all(len(seen.body) < len(body) for seen in behind.server.seen)
