"""Reading the usage from the end of a stream of server-sent events."""

import orjson

from corral.dialects.model import Form, Usage

_EVENTS = 8
"""How many events from the end are looked at: a server reports its usage in the last, or just before `[DONE]`."""


def last_usage(form: Form, tail: bytes) -> Usage | None:
    """Find the usage in `tail`, the last bytes of a stream, which may begin in the middle of an event."""
    end = len(tail)
    for _ in range(_EVENTS):
        start = tail.rfind(b"data:", 0, end)
        if start < 0:
            return None
        line_end = tail.find(b"\n", start, end)
        data = tail[start + 5 : end if line_end < 0 else line_end].strip()
        end = start
        if not data.startswith(b"{") or (start and tail[start - 1 : start] != b"\n"):
            continue
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            continue
        usage = form.usage(event)
        if usage is not None:
            return usage
    return None
