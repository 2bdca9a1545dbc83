"""What a client is told about its quota, in the three forms that clients read.

The IETF draft's `RateLimit` and `RateLimit-Policy`, the older `X-RateLimit-*` trio (seconds until the reset), and
OpenAI's `x-ratelimit-*-requests` (resets as durations).
"""

import math
from collections.abc import Mapping, Sequence

from corral.engine.decision import Standing
from corral.policy.model import LimitRule

_CACHE_SIZE = 8192


def policy_header(limits: Sequence[LimitRule]) -> bytes:
    """Write the `RateLimit-Policy` line for `limits`, or nothing where there are none."""
    if not limits:
        return b""
    items = ", ".join(f'"{rule.name}";q={rule.quota.amount};w={math.ceil(rule.quota.window)}' for rule in limits)
    return f"RateLimit-Policy: {items}\r\n".encode()


def _duration(seconds: int) -> str:
    """Write `seconds` as OpenAI does: 59s, 6m0s, 1h0m0s."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


class QuotaHeaders:
    """Writes the header lines for a standing, and remembers them: a flood asks for few different ones.

    `limits` are those of clients without a plan, `by_plan` those of each plan.
    """

    def __init__(self, limits: Sequence[LimitRule], by_plan: Mapping[str, Sequence[LimitRule]] | None = None) -> None:
        self._policies: dict[str | None, bytes] = {None: policy_header(limits)}
        self._policies |= {name: policy_header(own) for name, own in (by_plan or {}).items()}
        self._written: dict[tuple[str | None, str, int, int], bytes] = {}

    def lines(self, standing: Standing | None, plan: str | None = None) -> bytes:
        """Write all quota header lines for `standing`, each ended by CRLF; nothing where no limit applies."""
        if standing is None:
            return b""
        reset = math.ceil(standing.reset)
        key = (plan, standing.name, standing.remaining, reset)
        written = self._written.get(key)
        if written is None:
            if len(self._written) >= _CACHE_SIZE:
                self._written.clear()
            written = self._written[key] = self._write(standing, reset, self._policies[plan])
        return written

    @staticmethod
    def _write(standing: Standing, reset: int, policy: bytes) -> bytes:
        name, quota, remaining = standing.name, standing.quota, standing.remaining
        return (
            policy
            + (
                f'RateLimit: "{name}";r={remaining};t={reset}\r\n'
                f"X-RateLimit-Limit: {quota}\r\nX-RateLimit-Remaining: {remaining}\r\nX-RateLimit-Reset: {reset}\r\n"
                f"x-ratelimit-limit-requests: {quota}\r\nx-ratelimit-remaining-requests: {remaining}\r\n"
                f"x-ratelimit-reset-requests: {_duration(reset)}\r\n"
            ).encode()
        )
