"""Server-sent events with JSON for data: read from the end of a stream, and written."""

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

MEDIA_TYPE = b"text/event-stream"

ENDS = (b"\n\n", b"\n\r\n", b"\r\r")
"""How an event ends: by a blank line, and lines end in three ways (HTML Standard, section 9.2.6)."""

SPEAKS = b"data:"
"""What an event has that is no mere sign of life."""

DONE = b"data: [DONE]\n\n"
"""How OpenAI's streams end."""


def data_of(events: bytes) -> Iterator[bytes]:
    """List the data of whole events, first to last; an event's data stands on one line."""
    for line in events.replace(b"\r", b"\n").split(b"\n"):
        if line.startswith(b"data:"):
            yield line[5:].strip()


def objects(events: bytes) -> Iterator[dict[str, Any]]:
    """List the JSON objects that whole events bring, first to last; other data is passed over."""
    return values(data_of(events))


def values(texts: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Read JSON objects; what is none is passed over."""
    for text in texts:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        if isinstance(value, dict):
            yield value


def last_data(events: bytes) -> bytes:
    """Find the data of the last event that has any; empty where none has."""
    return next(iter(reversed([*data_of(events[-4096:])])), b"")


def event(value: dict[str, Any], name: str = "") -> bytes:
    """Write an event."""
    data = b"data: " + orjson.dumps(value) + b"\n\n"
    return b"event: " + name.encode() + b"\n" + data if name else data
