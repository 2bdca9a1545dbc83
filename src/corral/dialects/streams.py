"""Reading the usage from the end of a stream: of server-sent events, or of JSON objects, one a line."""

import orjson

from corral.dialects.model import Form, Usage

STREAM_TYPES = (b"text/event-stream", b"application/x-ndjson")
"""How the content types of streams begin; the latter is Ollama's."""

_EVENTS = 8
"""How many events from the end are looked at: a server reports its usage in the last, or just before `[DONE]`."""

_METRICS = b',"total_duration":'
"""What Ollama's metrics begin with; within a string its quotation marks would be escaped."""


def last_usage(form: Form, tail: bytes) -> Usage | None:
    """Find the usage in `tail`, the last bytes of a stream, which may begin in the middle of an event."""
    if tail.endswith(b"}\n"):  # an event ends with an empty line, unless it was cut
        start = tail.rfind(b"\n", 0, len(tail) - 1) + 1
        if not tail.startswith(b"data:", start):
            return _usage_of_last_line(form, tail, start)
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


def _usage_of_last_line(form: Form, tail: bytes, start: int) -> Usage | None:
    """Find the usage in the last of lines of JSON, whose beginning may be cut off: it may list a whole context."""
    line = tail[start:]
    if not line.startswith(b"{"):
        metrics = line.rfind(_METRICS)
        if start or metrics < 0:
            return None
        line = b"{" + line[metrics + 1 :]
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return form.usage(event) if type(event) is dict else None
