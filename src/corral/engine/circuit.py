"""Whether a server is left alone for a while: a circuit breaker (Nygard, "Release It!", chapter 5).

Closed: requests go there. After a few failures in a row it opens: none go there. When the pause is over it is
half-open: one probe goes there, and closes it or opens it again for twice as long. Pure: the caller tells the time, in
seconds, and draws the jitter, in [0, 1).
"""

from typing import Literal

State = Literal["closed", "half-open", "open"]

STATES: tuple[State, ...] = ("closed", "half-open", "open")


class Circuit:
    """The circuit of one server.

    `threshold` ≥ 1 failures in a row open it, for `pause` > 0 seconds the first time and `max_pause` at most. Of a
    pause at least half is kept, and the rest by jitter: guards that were started together do not ask together. One that
    opens again soon after it closed goes on where its pauses had come to.
    """

    def __init__(self, threshold: int, pause: float, max_pause: float) -> None:
        self._threshold = threshold
        self._first_pause = pause
        self._max_pause = max(pause, max_pause)
        self._pause = pause
        self._closed_at = float("-inf")
        self._probing = False
        self._early = False
        self.failures = 0
        """Failures in a row, while it is closed."""
        self.closed = True
        self.retry_at = 0.0
        """When an open circuit may be probed, in seconds."""

    @property
    def state(self) -> State:
        """Name the state."""
        if self.closed:
            return "closed"
        return "half-open" if self._probing else "open"

    def failed(self, now: float, jitter: float, *, certain: bool = False, grow: bool = True) -> bool:
        """Count a failure of a request, or of a probe of a closed circuit; True if it opened the circuit.

        One that is `certain` opens it alone. Without `grow` the pause is the first one: what was found is known to
        pass, as a model that is being loaded.
        """
        if not self.closed:
            return False
        self.failures += 1
        if self.failures < self._threshold and not certain:
            return False
        soon = now - self._closed_at < self._max_pause
        self._open(now, jitter, self._longer if soon and grow else self._first_pause)
        return True

    def probe_failed(self, now: float, jitter: float, *, certain: bool = False, grow: bool = True) -> bool:
        """Note that a probe found the server ill; as `failed`. An open circuit stays open, for longer if it `grow`s."""
        if self.closed:
            return self.failed(now, jitter, certain=certain, grow=grow)
        if self._probing and not self._early:
            self._open(now, jitter, self._longer if grow else self._first_pause)
        self._probing = False
        return False

    @property
    def _longer(self) -> float:
        return min(2 * self._pause, self._max_pause)

    def answered(self) -> None:
        """Note that a request was answered: the failures before it were no row. An open circuit stays open."""
        self.failures = 0

    def well(self, now: float) -> bool:
        """Note that a probe found the server well; True if it closed the circuit."""
        self.failures = 0
        self._probing = False
        if self.closed:
            return False
        self.closed = True
        self._closed_at = now
        return True

    def may_probe(self, now: float) -> bool:
        """Tell whether an open circuit's pause is over."""
        return not self.closed and not self._probing and now >= self.retry_at

    def probe(self, now: float) -> None:
        """Note that a probe is under way; `probe_failed` or `well` ends it. One before its time lengthens no pause."""
        self._probing = not self.closed
        self._early = now < self.retry_at

    def _open(self, now: float, jitter: float, pause: float) -> None:
        self.closed = False
        self._probing = False
        self._pause = pause
        self.retry_at = now + pause * (0.5 + 0.5 * jitter)
