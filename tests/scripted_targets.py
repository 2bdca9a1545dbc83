"""Servers to scan that do as a test says."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def serving(handle) -> Iterator[str]:
    """Run a server on a thread of its own that treats each connection as `handle` says."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def guarded(reader, writer):
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async def start():
        return await asyncio.start_server(guarded, "127.0.0.1", 0)

    async def stop():
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # what was aborted is closed in a later turn

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(5)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


Answer = tuple[int, dict[str, str], str]
Reply = Callable[[str, str, dict[str, str], bytes], Answer]
"""Answers a request: method, path, headers (lower-case names) and body."""


@contextmanager
def answering(reply: Reply) -> Iterator[str]:
    """Run an HTTP server that answers each request as `reply` says."""

    async def handle(reader, writer):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.split("\r\n")
            method, path, _ = first.split(" ")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            chunked = headers.get("transfer-encoding") == "chunked"
            if chunked:
                while size := int(await reader.readline(), 16):
                    await reader.readexactly(size + 2)
                await reader.readline()
            status, fields, text = reply(method, path, headers, body)
            data = text.encode()
            shown = "".join(
                f"{name}: {value}\r\n" for name, value in {"Content-Type": "application/json", **fields}.items()
            )
            writer.write(f"HTTP/1.1 {status} X\r\n{shown}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            await writer.drain()

    with serving(handle) as url:
        yield url
