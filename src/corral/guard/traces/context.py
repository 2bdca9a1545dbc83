"""Which trace a request belongs to, and whether it is one of those that are exported.

W3C Trace Context (https://www.w3.org/TR/trace-context/), level 1: the header `traceparent`.
"""

import re
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Protocol

from corral.guard.identity import Identity
from corral.policy.model import Policy

if TYPE_CHECKING:
    from corral.guard.record import Finished

# Versions to come may append fields to those of version 00; ff is no version.
_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class TraceContext:
    """What a request's spans need beside its record.

    Ids are numbers, `parent_id` 0 where the guard began the trace; `span_id` is the guard's own span, `upstream_id`
    that of the trip to the server. `queued` and `placed` are seconds from the request's arrival to when it asked for a
    place and to when it went on to the server; negative where it never did. `model` is what the client asked for, ""
    if it named none; `max_tokens` what each answer was granted, 0 where it generates none.
    """

    __slots__ = ("max_tokens", "model", "parent_id", "placed", "queued", "sampled", "span_id", "trace_id",
                 "upstream_id")  # fmt: skip

    def __init__(self, trace_id: int, span_id: int, upstream_id: int, parent_id: int, sampled: bool) -> None:  # noqa: FBT001  # as the header has it
        self.trace_id = trace_id
        self.span_id = span_id
        self.upstream_id = upstream_id
        self.parent_id = parent_id
        self.sampled = sampled
        self.queued = -1.0
        self.placed = -1.0
        self.model = ""
        self.max_tokens = 0

    def header(self) -> bytes:
        """Write the line `traceparent` for the server, whose spans belong under the trip to it."""
        return b"traceparent: 00-%032x-%016x-%02x\r\n" % (self.trace_id, self.upstream_id, self.sampled)

    def note(self, queued: float, placed: float, model: str | None, max_tokens: int) -> None:
        """Keep what is known once the request has ended."""
        self.queued = queued
        self.placed = placed
        self.model = model or ""
        self.max_tokens = max_tokens


class TraceSink(Protocol):
    """What a guard that traces asks for. No call blocks or raises."""

    forwards: bool
    """Whether the server is sent `traceparent`."""

    def begin(self, head: Mapping[bytes, bytes], peer: str) -> TraceContext | None:
        """Choose a request, by its head and the host of its socket's peer; None is not traced."""
        ...

    def record(self, finished: "Finished") -> None:
        """Take the record of a request that was chosen."""
        ...


class TraceContexts:
    """Chooses the requests that are traced.

    No client decides whether it is traced: `sample_ratio` of the requests are. Only with `parent = "proxies"`, and
    only a trusted proxy's word is taken for it. Where `parent` is "everyone", a client's trace is continued, but
    chosen by the guard's own dice, not by the ids and flags that the client wrote.
    """

    def __init__(self, policy: Policy, dice: Random | None = None) -> None:
        telemetry = policy.telemetry
        self._ratio = telemetry.sample_ratio
        self._parent = telemetry.parent
        self._identity = Identity(policy.identity.trusted_proxies, policy.identity.header)
        self._dice = dice if dice is not None else Random()  # noqa: S311  # ids are to be unlike, not secret
        self.forwards = telemetry.forward

    def begin(self, head: Mapping[bytes, bytes], peer: str) -> TraceContext | None:
        """Choose a request; see `TraceSink.begin`."""
        given = None
        if self._parent != "none":
            value = head.get(b"traceparent")
            if value is not None and (self._parent == "everyone" or self._identity.trusts(peer)):
                given = read_traceparent(value)
        decided = given is not None and self._parent == "proxies"
        sampled = given[2] if given is not None and decided else self._dice.random() < self._ratio
        if not sampled and not self.forwards:
            return None
        bits = self._dice.getrandbits
        trace_id, parent_id = (bits(128) or 1, 0) if given is None else given[:2]
        return TraceContext(trace_id, bits(64) or 1, bits(64) or 1, parent_id, sampled)


def read_traceparent(value: bytes) -> tuple[int, int, bool] | None:
    """Read a traceparent: the trace's id, the parent's, and whether it was sampled. None where it is not valid."""
    match = _TRACEPARENT.fullmatch(value.strip())
    if match is None or (match[1] == b"00" and match[5] is not None):
        return None
    trace_id, parent_id = int(match[2], 16), int(match[3], 16)
    if not trace_id or not parent_id:
        return None
    return trace_id, parent_id, bool(int(match[4], 16) & _SAMPLED)
