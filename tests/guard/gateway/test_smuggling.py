"""Whatever two readers may frame differently: the server behind the guard sees what was meant, or nothing at all."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import pytest

from corral.guard import die_with_parent
from corral.policy.model import Bounds, Concurrency, Policy, Quota, Upstream
from running_guard import RunningGuard, answer, api_key, guards, post, read_all
from scripted_targets import serving
from smuggling_tricks import CHAT, CUT, KEY, POISON, TRICKS, Trick

POLICY = Policy(
    auth="keys",
    keys=(api_key("alice", KEY.decode()),),
    limits=(),
    max_failed_logins=Quota(10**6, 60.0),
    # What is never completed is ended soon. Whatever is complete comes without pause, and is not waited for.
    bounds=replace(Bounds(), head_timeout=0.25, body_timeout=0.25, idle_timeout=0.25),
)
HONEST = CHAT.replace(b"intended", b"honest")
AUTHORIZATION = f"Authorization: Bearer {KEY.decode()}\r\n"

every_trick = pytest.mark.parametrize("trick", TRICKS, ids=[trick.name for trick in TRICKS])


def transcript(seen: bytes) -> str:
    """Read the statuses of all final answers."""
    return " ".join(status for status in re.findall(r"HTTP/1\.1 (\d{3}) ", seen.decode("latin-1")) if status != "100")


def is_as_told(trick: Trick, seen: str) -> bool:
    return seen == trick.transcript or (trick.transcript == CUT and seen == "200")


def send(connection, data: bytes) -> None:
    """Send to a guard that may have hung up."""
    try:
        connection.sendall(data)
    except ConnectionError:
        pass


# a scripted server


@dataclass
class Recorder:
    """A server that keeps every byte that reaches it, and answers each request with its own body."""

    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader, writer) -> None:
        self.connections += 1
        me = self.connections
        wire = b""
        while data := await reader.read(65536):
            self.pieces.append((me, data))
            wire += data
            while (end := wire.find(b"\r\n\r\n") + 4) >= 4:
                length = re.search(rb"content-length: (\d+)", wire[:end].lower())
                after = end + (int(length[1]) if length else 0)
                if len(wire) < after:
                    break
                writer.write(answer(wire[end:after] or b"{}"))
                wire = wire[after:]

    def seen(self) -> list[bytes]:
        """What reached each of its connections since `pieces` was cleared."""
        return [
            b"".join(data for who, data in self.pieces if who == one) for one in sorted({who for who, _ in self.pieces})
        ]


@dataclass
class Recorded:
    """A guard in front of a recorder."""

    guard: RunningGuard
    recorder: Recorder
    host: str

    def probe(self, target: str) -> bytes:
        """Write what the guard asks for itself, at its own times."""
        head = f"GET {target} HTTP/1.1\r\nHost: {self.host}\r\nUser-Agent: corral-probe\r\nAccept: */*\r\n\r\n"
        return head.encode()

    def forwarded(self, body: bytes, target: str = "/v1/chat/completions") -> bytes:
        """Write the one request that the guard makes of a body; of none, a GET."""
        start = f"{'POST' if body else 'GET'} {target} HTTP/1.1\r\nHost: {self.host}\r\nAccept: */*\r\n"
        if body:
            start += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return start.encode() + b"\r\n" + body


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recorded]:
    recorder = Recorder()
    with serving(recorder.serve) as url, guards() as start:
        guard = start(policy=replace(POLICY, upstream=replace(Upstream(), url=url)))
        yield Recorded(guard, recorder, url.removeprefix("http://"))


def in_one_piece(guard: RunningGuard, stack: ExitStack, raw: bytes):
    connection = stack.enter_context(guard.connect())
    send(connection, raw)
    return connection


def byte_by_byte(guard: RunningGuard, stack: ExitStack, raw: bytes):
    connection = stack.enter_context(guard.connect())
    for start in range(min(len(raw), 2000)):
        send(connection, raw[start : start + 1])
    send(connection, raw[2000:])
    return connection


def behind_a_known_head(guard: RunningGuard, stack: ExitStack, raw: bytes):
    """Send where the guard has come to know what head this connection usually sends."""
    connection = stack.enter_context(guard.connect())
    for _ in range(2):
        connection.sendall(post(HONEST, headers=AUTHORIZATION))
        assert b"honest" in connection.recv(65536)
    send(connection, raw)
    return connection


@every_trick
def test_a_server_sees_the_request_that_was_meant_or_none(recorded, trick):
    guard = recorded.guard
    recorded.recorder.pieces.clear()
    with ExitStack() as stack:
        ways = (in_one_piece, byte_by_byte, behind_a_known_head)
        connections = [way(guard, stack, trick.raw) for way in ways]
        transcripts = [transcript(read_all(connection)) for connection in connections]
    honest = guard.exchange(HONEST, headers=AUTHORIZATION)
    assert all(is_as_told(trick, seen) for seen in transcripts), transcripts
    assert transcript(honest) == "200"
    assert honest.endswith(HONEST)
    meant = recorded.forwarded(CHAT)
    if trick.asks_for(b"/v1/models"):
        meant = recorded.forwarded(b"", "/v1/models")
    usual = recorded.forwarded(HONEST)
    probes = recorded.probe("/health"), recorded.probe("/props")
    wires = [wire.replace(probes[0], b"").replace(probes[1], b"") for wire in recorded.recorder.seen()]
    for wire in wires:
        assert re.fullmatch(b"(?:%b|%b)*" % (re.escape(meant), re.escape(usual)), wire), wire
    assert sum(wire.count(usual) for wire in wires) == 3
    served = sum(wire.count(meant) for wire in wires)
    if trick.transcript == CUT:
        assert served <= len(ways)
    elif trick.asks_for(b"/health"):
        assert served == 0
    else:
        assert served == (len(ways) if trick.transcript.startswith("200") else 0)


# nginx as the server

NGINX = """
daemon off; master_process off; error_log stderr crit; pid {folder}/nginx.pid;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    log_format line '$request'; access_log {folder}/requests.log line;
    keepalive_requests 1000000; default_type application/json;
    server {{
        listen unix:{folder}/nginx.sock;
        location = /v1/models {{ return 200 '{{"whose":"models"}}'; }}
        location = /v1/chat/completions {{ return 200 '{{"whose":"chat"}}'; }}
        location / {{ return 200 '{{"whose":"poison"}}'; }}
    }}
}}
"""
CHAT_LINE = "POST /v1/chat/completions HTTP/1.1"
MODELS_LINE = "GET /v1/models HTTP/1.1"
PROBES = ("GET /health HTTP/1.1", "GET /props HTTP/1.1")


@dataclass
class Nginx:
    """A guard in front of nginx, and nginx's log."""

    guard: RunningGuard
    log: Path

    def lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program, "nginx is missing: run scripts/install-servers test"
    folder = tmp_path_factory.mktemp("nginx")
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder))
    bound = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
    with subprocess.Popen([*bound, program, "-p", str(folder), "-c", str(config)]) as process:
        try:
            end = time.monotonic() + 30
            while not (folder / "nginx.sock").exists():
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.01)
            with guards() as start:
                url = f"unix:{folder}/nginx.sock"
                yield Nginx(
                    start(policy=replace(POLICY, upstream=replace(Upstream(), url=url))), folder / "requests.log"
                )
        finally:
            process.terminate()


@every_trick
def test_nginx_behind_the_guard_never_sees_the_poison(nginx, trick):
    guard = nginx.guard
    before = len(nginx.lines())
    with guard.connect() as connection:
        send(connection, trick.raw)
        seen = transcript(read_all(connection))
    honest = guard.send(
        f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n{AUTHORIZATION}Connection: close\r\n\r\n".encode()
    )
    assert is_as_told(trick, seen)
    assert transcript(honest) == "200"
    assert honest.endswith(b'{"whose":"models"}')
    models = seen == "200" and trick.asks_for(b"/v1/models")
    end = time.monotonic() + 10
    while (lines := nginx.lines()[before:]).count(MODELS_LINE) < 1 + models:  # nginx logs after it has answered
        assert time.monotonic() < end
        time.sleep(0.002)
    allowed = [MODELS_LINE] * (1 + models)
    lines = [line for line in lines if line not in PROBES]
    if trick.transcript == CUT:
        lines = [line for line in lines if line != CHAT_LINE]
    elif trick.transcript.startswith("200") and not models and not trick.asks_for(b"/health"):
        allowed = [CHAT_LINE, *allowed]
    assert lines == allowed


# llama-server

REAL = [
    trick
    for trick in TRICKS
    if trick.name
    in {
        "TE: plain", "CL.TE: plain", "TE.CL: plain", "CL.TE: space before colon", "TE.CL: vertical tab before value",
        "CL.TE: list chunked, identity", "TE.CL: value folded", "CL.TE: after a bare LF", "TE: trailing space",
        "CL: plain", "CL: leading zero", "CL: plus", "CL: twice, the first zero", "CL: zero",
        "chunks: extension ended by bare LF", "chunks: bare LF after data", "chunks: nothing after data",
        "chunks: size beyond 64 bits", "chunks: trailer Content-Length", "bare LF throughout",
        "several spaces after the method", "absolute form", "HTTP/1.0, kept alive", "HTTP/1.0, chunked",
        "HTTP/2 preface", "GET with the poison as body", "poison as body", "Expect", "h2c", "websocket",
        "poison sent ahead", "start of a request sent ahead", "another path by field",
    }
]  # fmt: skip


def generated(url: str) -> int:
    """Ask llama-server how many tokens it has generated, once nothing is running any more."""
    end = time.monotonic() + 10
    while any(slot["is_processing"] for slot in httpx2.get(f"{url}/slots").json()):
        assert time.monotonic() < end
        time.sleep(0.005)
    told = re.search(r"^llamacpp:tokens_predicted_total (\d+)", httpx2.get(f"{url}/metrics").text, re.MULTILINE)
    assert told
    return int(told[1])


@pytest.fixture(scope="module")
def real_guard(llama_server) -> Iterator[RunningGuard]:
    policy = replace(POLICY, upstream=replace(Upstream(), url=llama_server.url), concurrency=Concurrency(max_running=4))
    with guards() as start:
        yield start(policy=policy)


@pytest.mark.e2e
@pytest.mark.parametrize("trick", REAL, ids=[trick.name for trick in REAL])
def test_llama_server_behind_the_guard_never_generates_for_the_poison(real_guard, llama_server, trick):
    before = generated(llama_server.url)
    with real_guard.connect() as connection:
        send(connection, trick.raw)
        seen = transcript(read_all(connection))
    honest = real_guard.exchange(HONEST, headers=AUTHORIZATION)
    assert seen == trick.transcript
    assert transcript(honest) == "200"
    chats = 1 + (seen.startswith("200") and not trick.asks_for(b"/v1/models"))
    assert generated(llama_server.url) - before == 4 * chats


@pytest.mark.e2e
def test_llama_server_would_generate_for_the_poison(llama_server):
    """What the tests above look for is to be seen where nobody guards."""
    before = generated(llama_server.url)
    host, _, port = llama_server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(POISON)
        assert transcript(read_all(connection)) == "200"
    assert generated(llama_server.url) - before == 50
