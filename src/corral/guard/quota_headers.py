"""What a client is told about its quota, in the forms that clients read.

The IETF draft's `RateLimit` and `RateLimit-Policy`, the older `X-RateLimit-*` trio (seconds until the reset), OpenAI's
`x-ratelimit-*-requests` and `-tokens` (resets as durations), and on its routes Anthropic's
`anthropic-ratelimit-requests-*` and `-tokens-*` (resets as RFC 3339 times). The first two speak of one limit: the one
with the smallest share of its quota left, of those that have a time; one on what runs at once only where it refuses, or
where there is no other. The draft has a unit for concurrent requests, and then no time is told;
it has none for tokens, computing time or money, so the limit's name should say what it counts.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from corral.engine.decision import Standing
from corral.policy.model import LimitRule

_CACHE_SIZE = 8192

_USUAL = (
    b'%bRateLimit: "%b";r=%d;t=%d\r\n'
    b"X-RateLimit-Limit: %d\r\nX-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n"
    b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\nx-ratelimit-reset-requests: %b\r\n"
    b"x-ratelimit-limit-tokens: %d\r\nx-ratelimit-remaining-tokens: %d\r\nx-ratelimit-reset-tokens: %b\r\n"
)


def policy_header(limits: Sequence[LimitRule]) -> bytes:
    """Write the `RateLimit-Policy` line for those of `limits` that are in force, or nothing where there are none."""
    items = [_item(rule) for rule in limits if not rule.shadow]
    return f"RateLimit-Policy: {', '.join(items)}\r\n".encode() if items else b""


def _item(rule: LimitRule) -> str:
    """Write one quota policy. What has no window has no `w`, and a month has none that is always so long."""
    quota = rule.quota
    if quota.unit == "concurrent requests":
        return f'"{rule.name}";q={quota.amount};qu="concurrent-requests"'
    window = "" if quota.period == "month" else f";w={math.ceil(quota.window)}"
    return f'"{rule.name}";q={quota.amount}{window}'


def _duration(seconds: int) -> str:
    """Write `seconds` as OpenAI does: 59s, 6m0s, 1h0m0s."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


class QuotaHeaders:
    """Writes the header lines for a standing, and remembers them: a flood asks for few different ones.

    `limits` are those of clients without a plan, `by_plan` those of each plan. `wall` is the time (seconds since the
    epoch) that resets are told from; its owner sets it now and then. Of a plan that is not there any more, as for a
    request that began before a reload, only how it stands is told.
    """

    def __init__(self, limits: Sequence[LimitRule], by_plan: Mapping[str, Sequence[LimitRule]] | None = None) -> None:
        self._policies: dict[str | None, bytes] = {None: policy_header(limits)}
        self._policies |= {name: policy_header(own) for name, own in (by_plan or {}).items()}
        self.wall = 0.0
        self._written: dict[tuple[str | None, str, int, int, int], bytes] = {}

    def lines(self, standing: Standing | None, plan: str | None = None) -> bytes:
        """Write all quota header lines for `standing`, each ended by CRLF; nothing where no limit applies."""
        if standing is None:
            return b""
        reset = math.ceil(standing.reset)
        # The quota too: what entered before a reload is told of the limit as it was then.
        key = (plan, standing.name, standing.quota, standing.remaining, reset)
        written = self._written.get(key)
        if written is None:
            if len(self._written) >= _CACHE_SIZE:
                self._written.clear()
            written = self._written[key] = self._write(standing, reset, self._policies.get(plan, b""))
        return written

    def full(
        self,
        requests: Standing | None,
        tokens: Standing | None,
        plan: str | None = None,
        *,
        anthropic: bool = False,
        other: Standing | None = None,
    ) -> bytes:
        """Write the lines for the tightest limit on requests, on tokens, and on anything else, where there are such.

        `anthropic` adds what Anthropic's clients read.
        """
        tightest = requests
        if requests is None or (tokens is not None and _share(tokens) < _share(requests)):
            tightest = tokens
        # A limit on what runs at once counts this very request: it would hide all that comes back with time.
        if tightest is None or (other is not None and other.window and _share(other) < _share(tightest)):
            tightest = other
        if tightest is None:
            return b""
        if requests is not None and tokens is not None and tightest.window and not anthropic:
            return self._usual(tightest, requests, tokens, self._policies.get(plan, b""))
        lines = [_general(tightest, math.ceil(tightest.reset))]
        for standing, what in ((requests, "requests"), (tokens, "tokens")):
            if standing is not None:
                lines.append(_openai(standing, math.ceil(standing.reset), what))
                if anthropic:
                    lines.append(_anthropic(standing, self.wall, what))
        return self._policies.get(plan, b"") + "".join(lines).encode()

    @staticmethod
    def _usual(tightest: Standing, requests: Standing, tokens: Standing, policy: bytes) -> bytes:
        """Write what most answers carry where tokens are counted: in one piece, 0.5 µs instead of 1.4."""
        name, quota, _, remaining, reset = tightest
        _, asked, _, asked_left, asked_reset = requests
        _, used, _, used_left, used_reset = tokens
        whole_again = math.ceil(reset)
        return _USUAL % (
            policy, name.encode(), remaining, whole_again, quota, remaining, whole_again,
            asked, asked_left, _duration(math.ceil(asked_reset)).encode(),
            used, used_left, _duration(math.ceil(used_reset)).encode(),
        )  # fmt: skip

    @staticmethod
    def _write(standing: Standing, reset: int, policy: bytes) -> bytes:
        return policy + (_general(standing, reset) + _openai(standing, reset, "requests")).encode()


def _share(standing: Standing) -> float:
    return standing.remaining / standing.quota


def _general(standing: Standing, reset: int) -> str:
    remaining = standing.remaining
    if not standing.window:
        return (
            f'RateLimit: "{standing.name}";r={remaining}\r\n'
            f"X-RateLimit-Limit: {standing.quota}\r\nX-RateLimit-Remaining: {remaining}\r\n"
        )
    return (
        f'RateLimit: "{standing.name}";r={remaining};t={reset}\r\n'
        f"X-RateLimit-Limit: {standing.quota}\r\nX-RateLimit-Remaining: {remaining}\r\nX-RateLimit-Reset: {reset}\r\n"
    )


def _openai(standing: Standing, reset: int, what: str) -> str:
    return (
        f"x-ratelimit-limit-{what}: {standing.quota}\r\nx-ratelimit-remaining-{what}: {standing.remaining}\r\n"
        f"x-ratelimit-reset-{what}: {_duration(reset)}\r\n"
    )


def _anthropic(standing: Standing, wall: float, what: str) -> str:
    whole_again = datetime.fromtimestamp(math.ceil(wall + standing.reset), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        f"anthropic-ratelimit-{what}-limit: {standing.quota}\r\n"
        f"anthropic-ratelimit-{what}-remaining: {standing.remaining}\r\n"
        f"anthropic-ratelimit-{what}-reset: {whole_again}\r\n"
    )
