"""One line a request, written beside the traffic and never in its way.

The gateway formats its lines a few at a time into a bounded buffer; a thread writes. Whatever happens to the log (a
full disk, a pipe that nobody empties), requests go on: lines that find the buffer full are counted, and the
count is itself logged as soon as a line can be written again.

A JSON line holds every field of `Finished` in a fixed order, with `time` (RFC 3339, UTC, milliseconds) in the
place of `at`, and `trace_id` in the place of `trace` where the request is traced; what the server did not report is
null. A count of lost lines is `{"time": …, "dropped": N}`.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

import orjson

from corral.errors import UsageError
from corral.guard.record import Finished
from corral.policy.model import Log

_CAPACITY = 65_536  # records waiting at most: about 30 MB when the log stands still
_CHUNK = 32  # records formatted at a stretch, in 0.1 ms
_BLOCKS = 64  # such stretches written at once
_GATHER = 0.05  # seconds a lone record waits for others, so that a busy guard writes many with one call
_RETRY = 1.0  # seconds between attempts to write where a write failed

_STDOUT = 1

Format = Callable[[Finished], bytes]
Note = Callable[[float, int], bytes]


class AccessLog:
    """Writes ended requests as lines to a file or to standard output; one thread may call its methods.

    `dropped` counts the lines lost since the start, because the buffer was full or writing failed at the end.
    """

    def __init__(self, descriptor: int, *, path: str = "", text: bool = False, capacity: int = _CAPACITY) -> None:
        """Write to an open `descriptor`; `path` is where `reopen` finds it again, "" if it is no file."""
        self._descriptor = descriptor
        self._path = path
        self._format: Format = text_line if text else json_line
        self._note: Note = _text_note if text else _json_note
        self._capacity = capacity
        self._recent: list[Finished] = []
        self._blocks: deque[tuple[bytes, int]] = deque()
        self._given = 0
        self._taken = 0
        self.dropped = 0
        self._reported = 0
        self._idle = False
        self._closing = False
        self._reopening = False
        self._wake = threading.Event()
        self._writer = threading.Thread(target=self._write_all, name="corral-access-log", daemon=True)
        self._writer.start()

    @classmethod
    def open(cls, log: Log) -> "AccessLog | None":
        """Open what the policy's `[log]` names; None where it names nothing.

        Raises:
            UsageError: the file cannot be opened for appending.

        """
        if not log.path:
            return None
        descriptor = _STDOUT if log.path == "-" else _open(log.path)
        text = log.format == "text" or (log.format == "auto" and os.isatty(descriptor))
        return cls(descriptor, path="" if log.path == "-" else log.path, text=text)

    def record(self, finished: Finished) -> None:
        """Take one ended request. Never blocks, never raises; a full buffer loses the line and counts it."""
        if self._given - self._taken >= self._capacity:
            self.dropped += 1
            return
        self._given += 1
        self._recent.append(finished)
        if len(self._recent) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Format what was recorded, and hand it to the writer. To be called now and then by who records.

        Formatting stays with the recording thread: where the writer did it, the two fought for the interpreter's lock,
        which cost 10 µs a request instead of the 2 µs that a line takes.
        """
        recent = self._recent
        if recent:
            self._blocks.append((b"".join(map(self._format, recent)), len(recent)))
            recent.clear()
        if self._idle:
            self._idle = False
            self._wake.set()

    def reopen(self) -> None:
        """Open the file's path anew before the next line, as after it was moved; standard output stays."""
        self._reopening = bool(self._path)
        self._wake.set()

    def close(self, timeout: float = 2.0) -> None:
        """Write what is buffered, for `timeout` seconds at most, and end; what cannot be written is lost."""
        self.flush()
        self._closing = True
        self._wake.set()
        self._writer.join(timeout)
        if self._writer.is_alive():
            self.dropped += self._given - self._taken

    def _write_all(self) -> None:
        """Run the writer thread."""
        while True:
            if self._reopening:
                self._reopen()
            if self._blocks or self.dropped > self._reported:
                lines, count = self._next_lines()
                delivered = self._write(lines)
                if not delivered and self._closing:
                    break
                self._taken += count
            elif self._closing:
                break
            else:
                self._wait()
        if self._path:
            os.close(self._descriptor)

    def _wait(self) -> None:
        self._wake.clear()
        self._idle = True
        if not self._blocks and not self._closing and not self._reopening:
            self._wake.wait()
        self._idle = False
        if not self._closing:
            time.sleep(_GATHER)

    def _next_lines(self) -> tuple[bytes, int]:
        lines = []
        total = 0
        dropped = self.dropped
        if dropped > self._reported:
            lines.append(self._note(time.time(), dropped - self._reported))
            self._reported = dropped
        for _ in range(min(_BLOCKS, len(self._blocks))):
            block, count = self._blocks.popleft()
            total += count
            lines.append(block)
        return b"".join(lines), total

    def _write(self, lines: bytes) -> bool:
        """Write all of `lines`, however long that takes; False if it failed while the log is being closed."""
        view = memoryview(lines)
        while view:
            try:
                written = os.write(self._descriptor, view)  # apart: mypyc evaluates a slice's bound twice
                view = view[written:]
            except OSError:
                if self._closing:
                    return False
                time.sleep(_RETRY)
                if self._reopening:
                    self._reopen()
        return True

    def _reopen(self) -> None:
        self._reopening = False
        try:
            descriptor = _open(self._path)
        except UsageError as error:
            print(f"corral: {error}", file=sys.stderr)  # noqa: T201 - the log itself is what failed
            return
        os.close(self._descriptor)
        self._descriptor = descriptor


def json_line(finished: Finished) -> bytes:
    """Format one request as a line of JSON."""
    (at, request_id, client, address, method, route, status, refused, limit, stream, waited, first_byte,
     duration, bytes_in, bytes_out, prompt, completion, compute, ending, plan, trace,
     shadow) = finished  # fmt: skip
    entry = {
        "time": _timestamp(at),
        "request_id": request_id,
        "client": client,
        "address": address,
        "method": method,
        "route": route,
        "status": status,
        "refused": refused,
        "limit": limit,
        "stream": stream,
        # Cut to microseconds: 0.1 µs each; round() takes 0.4 µs, to be right in a digit that nobody reads.
        "waited": int(waited * 1e6) / 1e6,
        "first_byte": int(first_byte * 1e6) / 1e6,
        "duration": int(duration * 1e6) / 1e6,
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "prompt_tokens": None if prompt < 0 else prompt,
        "completion_tokens": None if completion < 0 else completion,
        "compute_ms": None if compute < 0 else compute,
        "ending": ending,
        "plan": plan,
        "shadow": shadow,
    }
    if trace is not None:
        entry["trace_id"] = f"{trace.trace_id:032x}"
    return orjson.dumps(entry, default=str, option=orjson.OPT_APPEND_NEWLINE)


def text_line(finished: Finished) -> bytes:
    """Format one request as a compact line for people; control characters are escaped."""
    tokens = ""
    if finished.completion_tokens >= 0:
        tokens = f" {max(finished.prompt_tokens, 0)}+{finished.completion_tokens} tokens"
    waited = f" waited {finished.waited:.2f}s" if finished.waited >= 0.005 else ""
    shadow = f"shadow:{finished.shadow}" if finished.shadow else ""
    why = " ".join(part for part in (finished.refused, finished.limit, shadow) if part)
    ending = "" if finished.ending in ("answered", "refused") else f" {finished.ending}"
    line = (
        f"{_timestamp(finished.at)[11:23]} {finished.status or '---'} {finished.method} {finished.route}"
        f" {finished.client or finished.address} {finished.duration:.3f}s{waited}{tokens}"
        f"{' ' + why if why else ''}{ending}"
    )
    return (_printable(line) + "\n").encode("utf-8", "replace")


def _json_note(at: float, dropped: int) -> bytes:
    return orjson.dumps({"time": _timestamp(at), "dropped": dropped}, option=orjson.OPT_APPEND_NEWLINE)


def _text_note(at: float, dropped: int) -> bytes:
    return f"{_timestamp(at)[11:23]} {dropped} lines of this log were lost: it was written too slowly\n".encode()


def _printable(text: str) -> str:
    """Escape whatever could break a line or steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _timestamp(at: float) -> str:
    """Spell seconds since the epoch as RFC 3339 in UTC with milliseconds."""
    milliseconds = int(at * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03}Z"


_last_second = (-1, "")


def _second(second: int) -> str:
    """Spell a whole second; the latest one is kept, since requests come many a second and in order."""
    global _last_second  # noqa: PLW0603 - one pair, replaced whole: threads see the old or the new
    kept, spelled = _last_second
    if kept != second:
        spelled = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _last_second = (second, spelled)
    return spelled


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"The log {path} cannot be opened for appending: {error.strerror}.") from None
