"""What an application's clients are told by its guard: refusals, and the headers on every answer."""

from typing import NamedTuple

from corral.engine.decision import Standing
from corral.guard.call import Call
from corral.guard.quota_headers import QuotaHeaders
from corral.guard.refusal import Refusal, RefusalWriter
from corral.guard.shadow import told
from corral.policy.model import LimitRule, Policy
from corral.policy.plans import all_limits, limits_of

Headers = list[tuple[bytes, bytes]]

_MOST_WRITERS = 1024
"""How many sets of the application's own limits are remembered."""


class Rendered(NamedTuple):
    """A refusal, ready to be sent."""

    status: int
    headers: Headers
    body: bytes


class Answers:
    """Writes them, names in small letters as ASGI wants them."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._writers: dict[tuple[LimitRule, ...], tuple[QuotaHeaders, RefusalWriter]] = {}

    def refusal(self, call: Call, refusal: Refusal, *, close: bool) -> Rendered:
        """Write a refusal. A HEAD gets no body; `close` ends the connection."""
        _, writer = self._written(call)
        answer = writer.render(refusal, close=close)
        lines, _, body = answer.rest.partition(b"\r\n\r\n")
        headers = [*_pairs(lines), (b"x-request-id", call.request_id.encode())]
        return Rendered(answer.status, headers, b"" if call.incoming.method == b"HEAD" else body)

    def headers(self, call: Call) -> Headers:
        """Write what stands on an answer: the request's name, what it was granted, and what is left of its quota."""
        visit = call.visit
        headers: Headers = [(b"x-request-id", call.request_id.encode())]
        if visit is not None and visit.cap:
            headers.append((b"x-corral-max-tokens", b"%d" % visit.cap))
        noted = call.shadowed()
        if noted:
            headers.append((b"x-corral-shadow", told(noted)))
        standings = [standing for _, standing in call.standings if standing is not None]
        if visit is not None and visit.standing is not None:
            standings.append(visit.standing)
        held = None if visit is None else visit.tokens
        if standings or held is not None:
            quota_headers, _ = self._written(call)
            requests = min(standings, key=_share) if standings else None
            if held is None:
                headers += _pairs(quota_headers.lines(requests, call.plan))
            else:
                headers += _pairs(quota_headers.full(requests, held.left, call.plan, other=held.other))
        return headers

    def _written(self, call: Call) -> tuple[QuotaHeaders, RefusalWriter]:
        """Find what writes headers and refusals where the application's own limits count too."""
        rules = tuple(rule for rule, _ in call.standings)
        found = self._writers.get(rules)
        if found is None:
            if len(self._writers) >= _MOST_WRITERS:
                self._writers.clear()
            policy = self._policy
            quota_headers = QuotaHeaders(
                (*policy.limits, *rules), {name: (*limits_of(policy, name), *rules) for name in policy.plan}
            )
            found = quota_headers, RefusalWriter((*all_limits(policy), *rules), quota_headers)
            self._writers[rules] = found
        return found


def _pairs(lines: bytes) -> Headers:
    """Split header lines into names, in small letters, and values."""
    split = (line.partition(b": ") for line in lines.split(b"\r\n") if line)
    return [(name.lower(), value) for name, _, value in split]


def _share(standing: Standing) -> float:
    return standing.remaining / standing.quota
