"""Requests and answers on raw connections."""

import asyncio
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its status, Retry-After in seconds (0 if there is none), its body, and whether it came whole."""

    status: int
    retry_after: float
    body: bytes
    whole: bool


def chat(key: str, address: str, *, tokens: int, stream: bool = True) -> bytes:
    """Write a chat completion, as the proxy would send it for a client at `address`."""
    body = {"messages": [{"role": "user", "content": "Tell me of the sea."}], "max_tokens": tokens, "stream": stream}
    return post(json.dumps(body).encode(), key, address)


def post(body: bytes, key: str, address: str, path: str = "/v1/chat/completions") -> bytes:
    """Write a request."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nX-Forwarded-For: {address}\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one answer. Raises OSError or EOFError where the connection ends before its head has come."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    retry = float(fields.get(b"retry-after", b"0"))
    parts: list[bytes] = []
    try:
        if fields.get(b"transfer-encoding") == b"chunked":
            while size := int((await reader.readline()).strip() or b"0", 16):
                parts.append((await reader.readexactly(size + 2))[:-2])
            await reader.readline()
        else:
            parts.append(await reader.readexactly(int(fields.get(b"content-length", b"0"))))
    except (EOFError, ValueError, OSError):
        return Answer(status, retry, b"".join(parts), whole=False)
    return Answer(status, retry, b"".join(parts), whole=True)
