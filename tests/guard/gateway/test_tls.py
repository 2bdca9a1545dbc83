"""TLS by certificate files."""

import json
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest
import trustme
import uvloop

from corral.errors import PolicyError
from corral.guard.service import Guard
from corral.policy.model import Bounds, Listen, Policy
from running_guard import post, read_all

HALF_OPEN = 1000
CHAT = b'{"messages":[{"role":"user","content":"hi"}]}'


def test_a_guard_serves_by_tls_and_refuses_what_is_none(start_guard, tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    listen = Listen(
        address="127.0.0.1:0", tls_certificate=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "key.pem")
    )
    guard = start_guard(policy=Policy(auth="none", listen=listen))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
        % (len(CHAT), CHAT)
    )
    for _ in range(2):
        plain = socket.create_connection(("127.0.0.1", guard.port), 10)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
            secured.sendall(request)
            answer = b""
            while part := secured.recv(65536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert not guard.send(request).startswith(b"HTTP/1.1 200 ")


@pytest.fixture
def secured(start_guard, tmp_path):
    """Start a guard with TLS; returns it and what a client needs to trust it."""

    def start(**bounds):
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(tmp_path / "key.pem")
        issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        listen = Listen(
            address="127.0.0.1:0", tls_certificate=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "key.pem")
        )
        context = ssl.create_default_context()
        authority.configure_trust(context)
        policy = Policy(auth="none", limits=(), listen=listen, bounds=replace(Bounds(), **bounds))
        return start_guard(policy=policy), context

    return start


def ask(guard, context) -> bytes:
    plain = socket.create_connection(("127.0.0.1", guard.port), 10)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as client:
        client.sendall(post(json.loads(CHAT), headers="Connection: close\r\n"))
        return read_all(client)


def until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_half_open_handshakes_count_as_connections(secured, sent):
    guard, context = secured(max_connections=20, max_connections_per_address=1000, head_timeout=60.0)
    most = 0
    with ExitStack() as opened:
        for _ in range(HALF_OPEN):
            client = opened.enter_context(guard.connect())
            try:
                client.sendall(sent)
            except ConnectionError:
                pass
            most = max(most, guard.guard.connections)
        assert most == 20
        with pytest.raises((ssl.SSLError, OSError)):
            ask(guard, context)
    until(lambda: guard.guard.connections == 0)
    assert ask(guard, context).startswith(b"HTTP/1.1 200 ")
    until(lambda: guard.guard.connections == 0)


def test_half_open_handshakes_of_one_address_leave_room_for_others(secured):
    guard, _ = secured(max_connections=20, max_connections_per_address=5, head_timeout=60.0)
    with ExitStack() as opened:
        for _ in range(50):
            opened.enter_context(guard.connect())
        until(lambda: guard.guard.connections == 5)


def test_what_is_no_handshake_leaves_nothing_behind(secured):
    guard, context = secured()
    for _ in range(20):
        assert not guard.send(b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP")
    until(lambda: guard.guard.connections == 0)
    assert ask(guard, context).startswith(b"HTTP/1.1 200 ")


def test_a_handshake_has_the_time_of_a_head(secured):
    guard, _ = secured(max_connections=1, head_timeout=0.5)
    with guard.connect() as client:
        assert read_all(client) == b""
    until(lambda: guard.guard.connections == 0)


def test_a_guard_stops_over_open_handshakes(secured):
    guard, _ = secured(head_timeout=60.0)
    with guard.connect() as client:
        until(lambda: guard.guard.connections == 1)
        guard.call(guard.guard.stop(5))
        assert read_all(client) == b""
    assert guard.guard.connections == 0


def test_many_secured_requests_at_once_are_all_answered(secured):
    """What comes in one read with the end of the handshake must not be lost."""
    guard, context = secured()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(guard, context), range(100)))
    assert {answer[:13] for answer in answers} == {b"HTTP/1.1 200 "}


def test_a_certificate_that_cannot_be_used_is_an_error_at_start(tmp_path):
    (tmp_path / "cert.pem").write_text("nonsense")
    listen = Listen(
        address="127.0.0.1:0", tls_certificate=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "cert.pem")
    )

    async def start() -> None:
        await Guard(Policy(auth="none", listen=listen)).start()

    with pytest.raises(PolicyError, match="cannot be used"):
        uvloop.run(start())


def test_keys_are_demanded_only_where_there_are_some():
    with pytest.raises(PolicyError, match="no key is configured"):
        Guard(Policy(auth="keys"))
