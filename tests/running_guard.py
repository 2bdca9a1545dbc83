"""A guard on a thread of its own, in front of a server that a test scripts."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import pytest
import uvloop

from corral.guard.metrics import Metrics
from corral.guard.record import Finished
from corral.guard.service import Guard
from corral.guard.traces.exporter import TraceExporter
from corral.guard.traces.opening import open_traces
from corral.policy.model import ApiKey, Listen, Policy, Upstream

Handler = Callable[["Seen", asyncio.StreamWriter], Coroutine[Any, Any, None]]


@dataclass
class Seen:
    """One request, as the scripted server saw it."""

    line: str
    head: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def answer(body: bytes | dict[str, Any], status: str = "200 OK", kind: str = "application/json") -> bytes:
    """Write a whole answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


CHAT = {
    "id": "x",
    "choices": [{"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 5},
}


async def _chat(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(CHAT))


async def _is_well(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(answer({"total_slots": 4} if "/props" in seen.line else {"status": "ok"}))


@dataclass
class ScriptedServer:
    """An inference server that does what a test tells it to. The guard's own questions are answered by `probe`."""

    handler: Handler = _chat
    probe: Handler = _is_well
    seen: list[Seen] = field(default_factory=list)
    probes: list[Seen] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(fields.get("content-length", "0")))
                seen = Seen(head[0], fields, body)
                probing = fields.get("user-agent") == "corral-probe"
                (self.probes if probing else self.seen).append(seen)
                await (self.probe if probing else self.handler)(seen, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.transport.abort()


class Records(list[Finished]):
    """Stands where the access log stands."""

    def record(self, finished: Finished) -> None:
        self.append(finished)

    def flush(self) -> None:
        pass


@dataclass
class RunningGuard:
    """A guard that runs until its test is over."""

    guard: Guard
    loop: asyncio.AbstractEventLoop
    records: Records
    server: ScriptedServer
    port: int = 0
    traces: TraceExporter | None = None

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def connect(self, timeout: float = 10.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def send(self, data: bytes) -> bytes:
        """Send raw bytes on a new connection, and read until the guard closes it."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)

    def exchange(self, body: Any = None, *, path: str = "/v1/chat/completions", headers: str = "") -> bytes:
        """Post JSON on a new connection, asking for its close; returns the raw answer."""
        value = {"messages": [{"role": "user", "content": "hi"}]} if body is None else body
        return self.send(post(value, path=path, headers=headers + "Connection: close\r\n"))

    def settled(self, count: int, timeout: float = 10.0) -> Records:
        """Wait until `count` requests were recorded."""
        done = threading.Event()

        def look() -> None:
            if len(self.records) >= count:
                done.set()
            else:
                self.loop.call_later(0.005, look)

        self.loop.call_soon_threadsafe(look)
        assert done.wait(timeout), f"{len(self.records)} of {count} requests were recorded"
        return self.records


def post(body: Any, *, path: str = "/v1/chat/completions", headers: str = "") -> bytes:
    """Write a POST request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{headers}"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data


def read_all(connection: socket.socket) -> bytes:
    """Read until the other side closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def api_key(name: str, secret: str, *, admin: bool = False) -> ApiKey:
    """Configure a key."""
    return ApiKey(name=name, sha256=sha256(secret.encode()).hexdigest(), admin=admin)


async def _end(upstream: asyncio.Server) -> None:
    upstream.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.01)


GuardFactory = Callable[..., RunningGuard]


@contextmanager
def guards() -> Iterator[GuardFactory]:
    """Start guards: `start(handler, policy, metrics)`; the policy's addresses are filled in. All are stopped at the end."""
    running: list[tuple[RunningGuard, threading.Thread, asyncio.Server]] = []
    raised: list[str] = []

    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "corral" in repr(context):
            raised.append(repr(context))

    def start(
        handler: Handler = _chat, policy: Policy | None = None, metrics: Metrics | None = None, *, authz: bool = False
    ) -> RunningGuard:
        policy = policy if policy is not None else Policy(auth="none")
        loop = uvloop.new_event_loop()
        loop.set_exception_handler(note)
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        server, records = ScriptedServer(handler), Records()

        async def up() -> tuple[RunningGuard, asyncio.Server]:
            upstream = await asyncio.start_server(server.serve, "127.0.0.1", 0)
            server.port = upstream.sockets[0].getsockname()[1]
            here = replace(
                policy,
                listen=replace(policy.listen, address="127.0.0.1:0") if policy.listen == Listen() else policy.listen,
                upstream=replace(policy.upstream, url=f"http://127.0.0.1:{server.port}")
                if policy.upstream.url == Upstream().url
                else policy.upstream,
            )
            traces = open_traces(here)
            guard = Guard(here, access_log=records, metrics=metrics, authz=authz, traces=traces)
            await guard.start()
            return RunningGuard(guard, loop, records, server, guard.address[1], traces), upstream

        guard, upstream = asyncio.run_coroutine_threadsafe(up(), loop).result(10)
        running.append((guard, thread, upstream))
        return guard

    try:
        yield start
    finally:
        for guard, thread, upstream in running:
            guard.call(guard.guard.stop(0))
            if guard.traces is not None:
                guard.traces.close()
            guard.call(_end(upstream))
            guard.loop.call_soon_threadsafe(guard.loop.stop)
            thread.join(10)
            guard.loop.close()
    assert raised == [], "the guard raised inside the event loop"


@pytest.fixture
def start_guard() -> Iterator[GuardFactory]:
    """Start guards that live as long as one test; see `guards`."""
    with guards() as start:
        yield start
