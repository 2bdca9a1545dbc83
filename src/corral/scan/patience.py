"""Being throttled, and bearing it: how long a scan waits because it was told to, and what it could not wait for."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from time import monotonic

from corral.scan.observation import Observation, Reply

LONGEST = 60.0
"""Seconds that a whole scan waits at most because it was told to."""

_KEPT_BACK = 30.0
"""Seconds of the scan's time that waiting leaves for the probes themselves."""

_UNTOLD = 2.0
"""Seconds to wait where a refusal does not say how long."""

_SHORTEST = 0.5
_TRIES = 3


class Patience:
    """Sends again what was refused for its number, when the refusal says, within one bound for the whole scan."""

    def __init__(self, seconds_left: Callable[[], float], longest: float = LONGEST) -> None:
        self._seconds_left = seconds_left
        self._longest = longest
        self._turn = asyncio.Lock()
        self._woke = 0.0
        self.waited = 0.0
        self.refused = 0
        self.retry_after = 0.0

    async def until_heard(self, send: Callable[[], Awaitable[Observation]]) -> Observation:
        """Send, and wait and send again while it is refused; the last answer may be a refusal all the same.

        Those who wait take turns, so that they do not use up what the others wait for.
        """
        if self._turn.locked():  # others wait already, and what they wait for is theirs
            async with self._turn:
                seen = await send()
        else:
            seen = await send()
        for _ in range(_TRIES):
            if seen.reply is not Reply.DENY:
                return seen
            refused_at = monotonic()
            async with self._turn:
                if self._woke <= refused_at:
                    wait = retry_after(seen)
                    if wait > min(self._longest - self.waited, self._seconds_left() - _KEPT_BACK):
                        break
                    await asyncio.sleep(wait)
                    self.waited += wait
                    self._woke = monotonic()
                seen = await send()
        if seen.reply is Reply.DENY:
            self.refused += 1
            self.retry_after = max(self.retry_after, retry_after(seen))
        return seen

    def told(self) -> str:
        """Say that requests stayed refused, and what to do about it; "" where none did."""
        if not self.refused:
            return ""
        requests = "1 request" if self.refused == 1 else f"{self.refused} requests"
        waited = f" though the scan waited {self.waited:.0f} s" if self.waited else ""
        return (
            f"The target throttles this scan: {requests} stayed refused for their number{waited}. "
            f"Wait {max(60.0, self.retry_after):.0f} s and scan again."
        )


def retry_after(seen: Observation) -> float:
    """Read how many seconds a refused request should wait."""
    said = seen.headers.get("retry-after", "")
    return max(_SHORTEST, float(said)) if re.fullmatch("[0-9]{1,6}", said) else _UNTOLD
