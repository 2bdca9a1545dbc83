"""TLS by certificate files."""

import socket
import ssl

import pytest
import trustme
import uvloop

from corral.errors import PolicyError
from corral.guard.service import Guard
from corral.policy.model import Listen, Policy

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
