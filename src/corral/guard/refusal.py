"""What the guard answers when it serves a request itself: refusals, in the client's dialect."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from corral.dialects.errors import render, status_for
from corral.dialects.model import ErrorStyle, Problem
from corral.engine.decision import Standing
from corral.guard.quota_headers import QuotaHeaders
from corral.policy.model import LimitRule
from corral.policy.notation import describe_count, describe_duration, describe_seconds
from corral.policy.whose import this

REASONS = {
    200: b"OK", 400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found",
    405: b"Method Not Allowed", 408: b"Request Timeout", 413: b"Content Too Large", 415: b"Unsupported Media Type",
    429: b"Too Many Requests", 431: b"Request Header Fields Too Large", 500: b"Internal Server Error",
    501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout",
    529: b"Site Overloaded",
}  # fmt: skip


class Answer(NamedTuple):
    """A rendered refusal: its status, and the bytes before and after the lines that differ from answer to answer."""

    status: int
    start: bytes
    rest: bytes


@dataclass(slots=True, eq=False)
class Refusal:
    """A request that is not served, and why.

    `retry_after` in seconds, None where coming back does not help; `standing` the limit that refused, if one did,
    and `plan` the name of the plan that the caller is on;
    `allow` the methods for a 405. Once rendered, the answers are kept with it: a flood is refused with one refusal.
    """

    kind: str
    message: str
    style: ErrorStyle
    route: str
    param: str | None = None
    retry_after: float | None = None
    standing: Standing | None = None
    plan: str | None = None
    allow: tuple[bytes, ...] = ()
    kept: Answer | None = None
    closing: Answer | None = None


_DRAINED_FOR = 10.0
"""Seconds after which a client of a drained guard may ask again: by then its balancer has taken the guard out."""


def drained(style: ErrorStyle, route: str) -> Refusal:
    """Refuse what is new while the guard is drained."""
    message = "This guard takes no new requests for now; those that run are finished."
    return Refusal("draining", message, style, route, retry_after=_DRAINED_FOR)


def no_place(retry_after: float, waited: float | None) -> str:
    """Say that there is no place: after `waited` seconds in the queue, or because that is full (None)."""
    why = "All places are taken and the queue is full"
    if waited is not None:
        why = f"No place came free within {describe_duration(waited)}"
    return f"{why}. Please try again in {describe_seconds(math.ceil(retry_after))}."


class RefusalWriter:
    """Renders refusals in the client's dialect."""

    def __init__(self, limits: Sequence[LimitRule], quota_headers: QuotaHeaders) -> None:
        self._quota_headers = quota_headers
        self._rules = {rule.name: rule for rule in limits}

    def render(self, refusal: Refusal, *, close: bool) -> Answer:
        """Render `refusal`: the head up to the lines that the caller adds (Date, X-Request-Id), then the rest."""
        answer = refusal.closing if close else refusal.kept
        if answer is None:
            answer = self._render(refusal, close=close)
            if close:
                refusal.closing = answer
            else:
                refusal.kept = answer
        return answer

    def _render(self, refusal: Refusal, *, close: bool) -> Answer:
        retry = None if refusal.retry_after is None else max(1, math.ceil(refusal.retry_after))
        status = status_for(refusal.kind, refusal.style)
        message, detail = self._explain(refusal, retry)
        body = render(Problem(status, refusal.kind, message, refusal.param), refusal.style, detail=detail)
        lines = [b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)]
        if retry is not None:
            lines.append(b"Retry-After: %d\r\n" % retry)
        if refusal.standing is not None:
            lines.append(self._quota_lines(refusal, refusal.standing, retry or 1))
        if status == 401:
            wrong = b"" if refusal.kind == "missing_api_key" else b', error="invalid_token"'  # RFC 6750, section 3
            lines.append(b'WWW-Authenticate: Bearer realm="corral"%b\r\n' % wrong)
        if refusal.allow:
            lines.append(b"Allow: " + b", ".join(refusal.allow) + b"\r\n")
        if close:
            lines.append(b"Connection: close\r\n")
        lines.append(b"\r\n" + body)
        return Answer(status, b"HTTP/1.1 %d %s\r\n" % (status, REASONS[status]), b"".join(lines))

    def _quota_lines(self, refusal: Refusal, standing: Standing, retry: int) -> bytes:
        """Tell how the limit that refused stands; of tokens there may be some left, only not enough."""
        rule = self._rules.get(standing.name)
        anthropic = refusal.style is ErrorStyle.ANTHROPIC
        told = standing._replace(reset=float(retry))
        if rule is not None and rule.quota.counts_tokens:
            return self._quota_headers.full(None, told, refusal.plan, anthropic=anthropic)
        if rule is not None and rule.quota.unit != "requests":
            return self._quota_headers.full(None, None, refusal.plan, other=told)
        told = told._replace(remaining=0)
        if anthropic:
            return self._quota_headers.full(told, None, refusal.plan, anthropic=True)
        return self._quota_headers.lines(told, refusal.plan)

    def _explain(self, refusal: Refusal, retry: int | None) -> tuple[str, dict[str, object] | None]:
        standing = refusal.standing
        if standing is None:
            return refusal.message, None
        if refusal.message:
            return refusal.message, {"violated-policies": [standing.name]}
        rule = self._rules.get(standing.name)
        owner = this(rule) if rule else "this address"
        message = (
            f"Rate limit reached for {owner}: at most {describe_count(standing.quota, 'request')} in "
            f'{describe_seconds(standing.window)} (limit "{standing.name}"). '
            f"Please try again in {describe_seconds(retry or 0)}."
        )
        return message, {"violated-policies": [standing.name]}
