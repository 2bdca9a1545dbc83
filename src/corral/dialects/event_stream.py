"""A stream of events on its way to the client: whole events alone pass, and their tokens are counted.

What a client has is always a sequence of whole events, so that a stream can be ended at any moment by events of the
guard's own. Tokens are counted a few kB at a time: 0.15 µs an event; one by one they would take three times as long.
"""

import re
from itertools import chain
from typing import Final

from corral.dialects.endings.model import Passed, StreamKind, problem_of
from corral.dialects.model import ErrorStyle

_TAIL: Final = 64 * 1024
"""How much of a stream's end is kept, in bytes: llama-server's last event repeats the prompt."""

_FIRST: Final = 4 * 1024
"""How much of a stream's beginning is kept, in bytes."""

_LONGEST: Final = 256 * 1024
"""The longest event that is held back until it is whole, in bytes."""

_AT_ONCE: Final = 8 * 1024
"""Of how many bytes the tokens are counted at once."""

_LEAST: Final = 32
"""Bytes that an event of a token has at least, so that fewer need not be counted; real ones have a hundred and more."""

_NEVER: Final = 1 << 60


class EventStream:
    """One stream of events.

    `most` is how many tokens may pass in all its `answers` together, 0 for any number. Once more would, `over` is set:
    `take` has then given out the events before, and is not to be called again. `counted` is how many have passed, less
    those in the last few kB.
    """

    __slots__ = (
        "_allowed", "_answers", "_edge", "_end", "_first", "_held", "_held_size", "_kept", "_kept_size", "_kind",
        "_recent", "_recent_size", "_torn", "_trimmed", "_until", "counted", "over",
    )  # fmt: skip

    def __init__(self, kind: StreamKind, most: int, answers: int) -> None:
        self._kind = kind
        self._end = kind.ends[0]
        self._answers = max(answers, 1)
        self._allowed = most + kind.leeway * self._answers if most else _NEVER
        self.counted = -kind.unmarked * self._answers
        self._recent: list[bytes] = []
        self._recent_size = 0
        self._until = 0
        """How many bytes may come before they have to be counted."""
        self._kept: list[bytes] = []
        self._kept_size = 0
        self._first = b""
        self._held: list[bytes] = []
        self._held_size = 0
        self._edge = b""
        """The last bytes of what is not a whole event, empty where all is."""
        self._torn = False
        self._trimmed = False
        self.over = False
        self._plan()

    def allow(self, most: int) -> None:
        """Let `most` ≥ 0 tokens pass in all, from now on."""
        self._allowed = most
        self._plan()

    def take(self, data: bytes) -> bytes:
        """Take a piece of the answer; returns the whole events that may be passed on now, if there are any."""
        if self._edge or not data.endswith(self._end):
            data = self._whole(data)
            if not data:
                return data
        self._recent.append(data)
        self._recent_size += len(data)
        if self._recent_size >= self._until:
            return self._count_up()
        return data

    def speaks(self, events: bytes) -> bool:
        """Tell whether any of `events` is more than a sign of life."""
        return self._kind.speaks in events

    def rest(self) -> bytes:
        """Give out what is left of an answer that has ended: the beginning of an event, where one is not whole."""
        rest = b"".join(self._held)
        self._held.clear()
        self._held_size = 0
        return rest

    def _whole(self, data: bytes) -> bytes:
        """Hold back the beginning of an event that is not there whole, and give out what was held back before it.

        An event that is too long to be held back passes as it comes: meanwhile the stream cannot be ended well.
        """
        window = self._edge + data
        end = _end_of_last(window, self._kind.ends) - len(self._edge)
        if end > 0:
            self._torn = False
            self._held.append(data[:end])
            whole = self.rest()
            data = data[end:]
            self._edge = data[-3:]
        else:
            whole = b""
            self._edge = window[-3:]
        if data:
            self._held.append(data)
            self._held_size += len(data)
            if self._torn or self._held_size > _LONGEST:
                self._torn = True
                whole += self.rest()
        return whole

    def _plan(self) -> None:
        """Say when to count next: as long as what has come is too short to hold the tokens that are left, later."""
        self._until = min(_AT_ONCE, (self._allowed - self.counted + 1) * _LEAST)

    def _count_up(self) -> bytes:
        """Count what has come since the last time; returns what of the last piece is not too much."""
        last = self._recent[-1] if self._recent else b""
        events = b"".join(self._recent)
        tokens = self._count_in(events)
        if self.counted + tokens > self._allowed:
            self.over = True
            before = events[: len(events) - len(last)]
            self.counted += self._count_in(before)
            last = self._fitting(last)
            events = before + last
            tokens = self._count_in(last)
        self.counted += tokens
        self._keep(events)
        self._plan()
        return last

    def _keep(self, events: bytes) -> None:
        """Keep the stream's beginning and its end."""
        self._recent.clear()
        self._recent_size = 0
        if not self._first:
            self._first = events[:_FIRST]
        self._kept.append(events)
        self._kept_size += len(events)
        if self._kept_size > 2 * _TAIL:
            tail = b"".join(self._kept)[-_TAIL:]
            self._kept, self._kept_size = [tail], len(tail)
            self._trimmed = True

    def _fitting(self, data: bytes) -> bytes:
        """Find the events at the beginning of `data` that do not pass the bound."""
        fits = 0
        room = self._allowed - self.counted
        # In one pass, whatever ends are not there: looked for anew from each event on, they take a second for 256 kB.
        ends = re.finditer(b"|".join(map(re.escape, self._kind.ends)), data)
        for following in chain((end.end() for end in ends), (len(data),)):
            room -= self._count_in(data[fits:following])
            if room < 0:
                break
            fits = following
        return data[:fits]

    def _count_in(self, events: bytes) -> int:
        kind = self._kind
        tokens = 0
        for mark in kind.marks:
            tokens += events.count(mark)
        for unmark in kind.unmarks:
            tokens -= events.count(unmark)
        return tokens

    # what has passed

    def count(self) -> int:
        """Count the tokens that have passed, ≥ 0: as exactly as one event is one token."""
        self._keep_recent()
        return max(self.counted, 0)

    def prompt_tokens(self) -> int | None:
        """Say how many tokens the prompt has, if the first events do."""
        return self._kind.prompt_tokens(self._first or b"".join(self._recent))

    def tail(self) -> bytes:
        """Return the last events that have passed; what comes first of that may be the end of an event."""
        self._keep_recent()
        return b"".join(self._kept)[-_TAIL:]

    def _keep_recent(self) -> None:
        if self._recent:
            events = b"".join(self._recent)
            self.counted += self._count_in(events)
            self._keep(events)
            self._plan()

    # how it is ended

    def cut_off(self) -> bytes | None:
        """Write what ends the stream for its length; empty where it has ended, None where it cannot be ended well."""
        passed = self._passed()
        if self._torn or not passed.last:
            return None
        return b"" if self._kind.ended(passed) else self._kind.cut_off(passed)

    def failed(self, kind: str, message: str, style: ErrorStyle) -> bytes | None:
        """Write what ends the stream for a problem of `kind`; empty where it has ended, None as in `cut_off`."""
        if self._torn:
            return None
        passed = self._passed()
        if passed.last and self._kind.ended(passed):
            return b""
        return self._kind.failed(passed, problem_of(kind, message, style), style)

    def _passed(self) -> Passed:
        tokens = self.count()
        return Passed(self._first, b"".join(self._kept), tokens, self._answers, not self._trimmed)


def _end_of_last(events: bytes, ends: tuple[bytes, ...]) -> int:
    """Find where the last whole event ends; 0 where there is none."""
    found = 0
    for end in ends:
        at = events.rfind(end)
        if at >= 0 and at + len(end) > found:
            found = at + len(end)
    return found
