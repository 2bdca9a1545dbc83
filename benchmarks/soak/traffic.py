"""Who calls during a soak: honest clients, and eight kinds of others. Each runs until it is cancelled."""

import asyncio
import ipaddress
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from benchmarks.soak.setup import HONEST, secret
from benchmarks.soak.wire import chat, post, read_answer

PATIENCE = 30.0
"""Seconds that an honest client goes on trying, as it is told to, until its request has failed."""

Tally = Counter[str]
_LOST = (OSError, EOFError, asyncio.LimitOverrunError, ValueError, IndexError)


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, and leave without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def honest(port: int, tally: Tally, number: int) -> None:
    """Stream short answers over a connection that is kept; come back when told to; count what failed in the end."""
    name = HONEST[number]
    request = chat(secret(name), f"10.0.0.{number + 1}", tokens=16)
    chance = random.Random(number)
    while True:
        tally["honest asked"] += 1
        tally["honest served" if await _insist(port, request, tally) else "honest failed"] += 1
        await asyncio.sleep(chance.uniform(0.2, 1.0))


_kept: dict[bytes, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}


async def _insist(port: int, request: bytes, tally: Tally) -> bool:
    end = monotonic() + PATIENCE
    while monotonic() < end:
        wait = 0.5
        kept = _kept.pop(request, None)
        try:
            reader, writer = kept or await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                answer = await asyncio.wait_for(read_answer(reader), PATIENCE)
            except BaseException:
                writer.transport.abort()
                raise
            if not answer.whole:
                writer.transport.abort()
            else:
                _kept[request] = reader, writer
            if answer.status == 200 and answer.whole and b"[DONE]" in answer.body:
                return True
            tally[f"honest tried again after {answer.status}"] += 1
            wait = max(wait, answer.retry_after)
        except (*_LOST, TimeoutError):
            if kept is not None:
                continue  # it was closed while it was idle: no answer is missed
            tally["honest tried again without an answer"] += 1
        await asyncio.sleep(wait)
    return False


async def flood(port: int, tally: Tally, number: int) -> None:
    """Ask far more often than the quota of a valid key allows, over one connection."""
    request = chat(secret("flooder"), f"10.1.0.{number}", tokens=32)
    while True:
        async with connection(port) as (reader, writer):
            for _ in range(200):
                writer.write(request)
                answer = await read_answer(reader)
                tally[f"flood {answer.status}"] += 1
                await asyncio.sleep(0.05)


async def cut(port: int, tally: Tally, number: int) -> None:
    """Begin a long answer, and leave in the middle or before it has begun."""
    chance = random.Random(number)
    request = chat(secret("cutter"), f"10.2.0.{number}", tokens=256)
    while True:
        async with connection(port) as (reader, writer):
            writer.write(request)
            try:
                async with asyncio.timeout(chance.uniform(0.01, 1.0)):
                    await reader.readuntil(b"data: ")
            except TimeoutError:
                pass
        tally["cut"] += 1
        await asyncio.sleep(0.3)


async def dawdle(port: int, tally: Tally, number: int) -> None:
    """Send a request byte by byte, or do not read the answer."""
    request = chat(secret("sleeper"), f"10.3.0.{number}", tokens=256)
    while True:
        async with connection(port) as (_, writer):
            if number % 2:
                for byte in request:
                    writer.write(bytes((byte,)))
                    await writer.drain()
                    await asyncio.sleep(0.1)
                    if writer.is_closing():
                        break
            else:
                writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can
                writer.write(request * 20)
                await asyncio.sleep(10)
        tally["slow"] += 1


async def invent_addresses(port: int, tally: Tally, number: int) -> None:
    """Come from a new address with every request, with a valid key: each one is counted apart."""
    chance = random.Random(number)
    while True:
        async with connection(port) as (reader, writer):
            for _ in range(100):
                bits = chance.getrandbits(128)
                address = ipaddress.IPv6Address(bits) if chance.random() < 0.5 else ipaddress.IPv4Address(bits >> 96)
                writer.write(post(b"{", secret("crowd"), str(address)))
                tally[f"invented address {(await read_answer(reader)).status}"] += 1
                await asyncio.sleep(0.01)


async def invent_keys(port: int, tally: Tally, number: int) -> None:
    """Try a new key with every request, mostly from a new address."""
    chance = random.Random(number)
    while True:
        async with connection(port) as (reader, writer):
            for _ in range(100):
                address = f"11.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(1, 255)}"
                writer.write(chat(chance.randbytes(16).hex(), address, tokens=1))
                tally[f"invented key {(await read_answer(reader)).status}"] += 1
                await asyncio.sleep(0.01)


_MALFORMED: tuple[Callable[[random.Random], bytes], ...] = (
    lambda chance: chance.randbytes(200),
    lambda chance: b"GET /" + b"a" * chance.randrange(20_000) + b" HTTP/1.1\r\n\r\n",
    lambda _: b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    lambda chance: b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * chance.randrange(500) + b"\r\n",
    lambda chance: post(b'{"messages":' + b"[" * chance.randrange(5000), secret("flooder"), "10.4.0.1"),
    lambda _: post(b'{"prompt":"' + b"a" * 200_000 + b'"}', secret("flooder"), "10.4.0.2", "/completion"),
    lambda chance: chat(secret("flooder"), "10.4.0.3", tokens=1)[: -chance.randrange(1, 100)],
    lambda _: chat(secret("flooder"), "not an address, at all", tokens=1, stream=False),
)


async def malform(port: int, tally: Tally, number: int) -> None:
    """Send what is no request, or none that can be served."""
    chance = random.Random(number)
    while True:
        async with connection(port) as (reader, writer):
            writer.write(chance.choice(_MALFORMED)(chance))
            writer.write_eof()
            await asyncio.wait_for(reader.read(), PATIENCE)
        tally["malformed"] += 1
        await asyncio.sleep(0.05)


async def scan_paths(port: int, tally: Tally, number: int) -> None:
    """Ask for paths that are not there, or not open."""
    chance = random.Random(number)
    while True:
        async with connection(port) as (reader, writer):
            for path in ("/slots", "/props", "/v1/models", "/health", f"/{chance.getrandbits(64):x}", "/metrics"):
                writer.write(
                    f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 10.5.{number}.1\r\n\r\n".encode()
                )
                tally[f"scanned {(await read_answer(reader)).status}"] += 1
        await asyncio.sleep(0.5)


Caller = Callable[[int, Tally, int], Coroutine[Any, Any, None]]

HOSTILE_CALLERS: tuple[tuple[Caller, int], ...] = (
    (flood, 8), (cut, 6), (dawdle, 12), (invent_addresses, 2), (invent_keys, 2), (malform, 3), (scan_paths, 1),
)  # fmt: skip
"""Who calls besides the honest, and how many of each."""


async def keep_on(caller: Caller, port: int, tally: Tally, number: int) -> None:
    """Let somebody call again whenever its connection is lost."""
    while True:
        try:
            await caller(port, tally, number)
        except (*_LOST, TimeoutError):
            tally["connections lost by the others"] += 1
            await asyncio.sleep(0.1)


async def everybody(port: int, tally: Tally) -> None:
    """Let all call, until cancelled; what the honest keep open is closed then."""
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(len(HONEST)):
                group.create_task(honest(port, tally, number))
            for caller, count in HOSTILE_CALLERS:
                for number in range(count):
                    group.create_task(keep_on(caller, port, tally, number))
    finally:
        for _, writer in _kept.values():
            writer.transport.abort()
        _kept.clear()
