"""What the guard takes in memory: `python -m benchmarks.memory`.

Three figures of one guard with everything on (keys, four quotas of requests, one of tokens, admission, metrics, log):
its resident memory when nothing happens, what each client adds that a limit keeps a count for, and its resident memory
while 5,000 streams run at once. The upstream and the clients are other processes.
"""

import argparse
import asyncio
import gc
import json
import resource
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import uvloop

from benchmarks.cases import CASES, KEY, PATH
from benchmarks.contestants.corral import Everything
from benchmarks.cores import choose, physical
from benchmarks.processes import Process, accepts, free_port
from benchmarks.upstream import Upstream
from corral.engine.limit import limits_from
from corral.guard.partition import Partitions
from corral.policy.model import LimitRule, Policy, Quota
from corral.stores.memory import MemoryStore

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

_LATEST = Path(__file__).with_name("memory.json")
_MB = 1_000_000
_STREAM = next(case for case in CASES if case.stream)

IDLE_BAR, CLIENT_BAR, STREAMS_BAR = 80 * _MB, 200, 400 * _MB
"""Bytes at most: idle, for each client, and with all streams running."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: resident when idle, added by each counted client, resident with `streams` running (`streaming`)."""

    idle: int
    client: float
    streams: int
    streaming: int


def resident(pid: int) -> int:
    """Read the resident memory of a process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("a process without VmRSS")


def bytes_a_client(clients: int = 100_000) -> float:
    """Count what a limit by address allocates for each of so many addresses."""
    rule = LimitRule(name="address", quota=Quota(30, 60.0), per="address")
    names = Partitions(Policy())
    store = MemoryStore(limits_from([rule]), capacity=clients)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(clients):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        store.take(store.bind([names.name(rule.partitions, address, None)]), 1000.0 + number * 1e-5)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return taken / clients


class _Streams(asyncio.Protocol):
    """An inference server whose streams stand still after their first event until the end is called for."""

    def __init__(self, open_streams: list[asyncio.Transport]) -> None:
        self._open = open_streams
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, gap, body = self._read.partition(b"\r\n\r\n")
        if not gap or len(body) < _length(head):
            return
        self._read = b""
        event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n"
            % (len(event), event)
        )
        self._open.append(self._transport)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


def serve(port: int, end: "Event") -> None:
    """Run the upstream until `end`, then finish every stream."""

    async def main() -> None:
        streams: list[asyncio.Transport] = []
        server = await asyncio.get_running_loop().create_server(
            lambda: _Streams(streams), "127.0.0.1", port, backlog=4096
        )
        await asyncio.to_thread(end.wait)
        for stream in streams:
            if not stream.is_closing():  # a health check of the guard may have left
                stream.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await asyncio.sleep(5)
        server.close()

    _many_files()
    uvloop.run(main())


async def hold(port: int, streams: int, running: int, end: "Event") -> tuple[int, int]:
    """Open `streams` streams, read each one's first event, measure process `running`, and read all to their ends."""
    body = _STREAM.bodies()[0].encode()
    request = (
        b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAuthorization: Bearer %b\r\n"
        b"Content-Length: %d\r\n\r\n" % (PATH.encode(), KEY.encode(), len(body)) + body
    )
    gate = asyncio.Semaphore(64)

    async def begin() -> asyncio.StreamReader:
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
            writers.append(writer)
            writer.write(request)
            await reader.readuntil(b'"content":"a"')
            return reader

    writers: list[asyncio.StreamWriter] = []
    readers = await asyncio.gather(*(begin() for _ in range(streams)))
    await asyncio.sleep(1)
    seen = resident(running)
    end.set()
    whole = await asyncio.gather(*(reader.readuntil(b"[DONE]") for reader in readers))
    for writer in writers:
        writer.close()
    return seen, len(whole)


def _many_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _upstream(port: int) -> Iterator["Event"]:
    context = get_context("spawn")
    end = context.Event()
    child = context.Process(target=serve, args=(port, end), daemon=True)
    child.start()
    try:
        yield end
    finally:
        child.kill()
        child.join()


def measure(streams: int) -> Memory:
    """Take all three figures."""
    _many_files()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="corral-memory-")))
        upstream, port = free_port(), free_port()
        end = stack.enter_context(_upstream(upstream))
        guard = Everything()
        setup = guard.set_up(_STREAM, port, Upstream(None, upstream, None), folder)  # type: ignore[arg-type]  # no process
        text = setup.files["corral.toml"]
        text = text.replace("max_connections = 160", f"max_connections = {streams + 32}")
        text = text.replace("max_running = 128", f"max_running = {streams}")
        text = text.replace("1000000000 tokens/second", "1000000000000 tokens/second")
        text += f"[bounds]\nmax_connections = {streams + 10}\nmax_connections_per_address = {streams + 10}\n"
        (folder / "corral.toml").write_text(text)
        process = stack.enter_context(Process("corral", setup.command, choose(physical()).server, folder / "log"))
        process.wait_for(accepts(upstream))
        process.wait_for(accepts(port))
        pid = process.pid
        idle = resident(pid)
        seen, whole = uvloop.run(hold(port, streams, pid, end))
        if whole != streams:
            raise AssertionError(f"{whole} of {streams} streams came to their end")
        return Memory(idle, bytes_a_client(), streams, seen)


def main() -> int:
    """Measure, print, write. Returns the process's exit status: 1 with `--check` where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--streams", type=int, default=5000)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()
    seen = measure(options.streams)
    rows = (
        ("idle, everything on", seen.idle / _MB, IDLE_BAR / _MB, "MB"),
        ("each client that a limit counts", seen.client, CLIENT_BAR, "bytes"),
        (f"{seen.streams:,} streams at once", seen.streaming / _MB, STREAMS_BAR / _MB, "MB"),
    )
    print("Memory of the guard, everything on")
    for what, value, bar, unit in rows:
        print(f"{'pass' if value <= bar else 'FAIL'}  {what:34}{value:8.1f} {unit:6} bar {bar:g}")
    _LATEST.write_text(json.dumps(asdict(seen), indent=2) + "\n")
    return 1 if options.check and any(value > bar for _, value, bar, _ in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
