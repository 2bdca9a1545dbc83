import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from corral.guard.admin import server as server_module
from corral.guard.admin.server import AdminServer
from corral.guard.metrics import Metrics
from corral.guard.service import ListenError


async def ask(server: AdminServer, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(request)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        await close(writer)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()


def run(scene: Callable[[AdminServer], Awaitable[None]]) -> None:
    async def play() -> None:
        server = AdminServer(Metrics(), ("127.0.0.1", 0))
        await server.start()
        try:
            await scene(server)
        finally:
            await server.stop()

    asyncio.run(play())
    uvloop.run(play())


def test_metrics_are_prometheus_text() -> None:
    async def scene(server: AdminServer) -> None:
        head, _, body = (await ask(server, b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
        assert f"Content-Length: {len(body)}".encode() in head
        assert b"corral_build_info" in body

    run(scene)


def test_health_is_answered() -> None:
    async def scene(server: AdminServer) -> None:
        answer = await ask(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.endswith(b'\r\n\r\n{"status":"ok"}\n')

    run(scene)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET /metrics/ HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", b"405"),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000 + b"\r\n\r\n", b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
    ],
)
def test_each_connection_gets_one_answer(request_: bytes, status: bytes) -> None:
    async def scene(server: AdminServer) -> None:
        answer = await ask(server, request_)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert request_.startswith(b"HEAD") == answer.endswith(b"\r\n\r\n")

    run(scene)


def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_LIFETIME", 0.05)

    async def scene(server: AdminServer) -> None:
        assert await ask(server, b"GET /me") == b""

    run(scene)


def test_who_says_nothing_keeps_nobody_out() -> None:
    async def scene(server: AdminServer) -> None:
        silent = [await asyncio.open_connection(*server.address) for _ in range(40)]
        assert (await ask(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        with contextlib.suppress(ConnectionResetError):
            assert await silent[0][0].read() == b"", "the oldest made room"
        for _, writer in silent:
            await close(writer)

    run(scene)


def test_an_address_in_use_is_said() -> None:
    async def play() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = AdminServer(Metrics(), taken.getsockname())
            with pytest.raises(ListenError, match="in use"):
                await server.start()
            await server.stop()

    asyncio.run(play())
