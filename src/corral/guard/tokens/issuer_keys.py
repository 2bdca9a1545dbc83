"""The keys that an issuer publishes: which there are, and when to fetch them anew. No I/O, no clock of its own."""

from collections.abc import Iterable

from corral.guard.credentials import Rejection
from corral.guard.tokens.keys import VerifyKey
from corral.guard.tokens.verifier import invalid, wrong_algorithm

COOLDOWN = 30.0
"""Seconds between two fetches at least, however many unknown keys tokens name."""

_LONGEST_RETRY = 60.0


class IssuerKeys:
    """Holds the latest set. What was fetched stays until another set takes its place: an issuer may be away.

    `generation` grows with each set that differs; `ready` tells whether there ever was one.
    """

    def __init__(self, refresh: float, algorithms: Iterable[str] = ()) -> None:
        self._refresh = refresh
        self._accepted = frozenset(algorithms)
        self._keys: tuple[VerifyKey, ...] = ()
        self._raw = b""
        self._fetching = False
        self._wanted = False
        self._failures = 0
        self._due_at = float("-inf")
        self._not_before = float("-inf")
        self.generation = 0

    @property
    def ready(self) -> bool:
        """Whether a set has been fetched."""
        return bool(self._keys)

    def choose(self, kid: str | None, algorithm: str) -> VerifyKey | Rejection:
        """Find the key that `kid` names, or the only one for `algorithm`; see `KeySource.choose`."""
        if algorithm.startswith("HS") or algorithm.lower() == "none":
            return wrong_algorithm(algorithm)
        if self._accepted and algorithm not in self._accepted:
            return wrong_algorithm(algorithm)
        if not self._keys:
            return Rejection("keys_unavailable", "The keys of the token's issuer could not be fetched yet.",
                             counts=False, retry_after=self._retry())  # fmt: skip
        named = [key for key in self._keys if kid is None or key.kid == kid]
        if not named:
            self._wanted = True
            return invalid("it is signed with a key that its issuer does not publish")
        fitting = [key for key in named if algorithm in key.algorithms]
        if len(fitting) == 1:
            return fitting[0]
        return invalid("it does not say which key it is signed with") if fitting else wrong_algorithm(algorithm)

    def is_due(self, now: float) -> bool:
        """Tell whether to fetch the set now."""
        if self._fetching:
            return False
        return now >= self._due_at or (self._wanted and now >= self._not_before)

    def began(self) -> None:
        """Note that a fetch is under way."""
        self._fetching, self._wanted = True, False

    def fetched(self, keys: tuple[VerifyKey, ...], raw: bytes, now: float) -> None:
        """Take the set that a fetch has brought."""
        self._fetching = False
        self._failures = 0
        self._due_at = now + self._refresh
        self._not_before = now + min(COOLDOWN, self._refresh)
        if raw != self._raw:
            self._keys, self._raw = keys, raw
            self.generation += 1

    def failed(self, now: float) -> None:
        """Note that a fetch has failed; the next attempt comes later each time, after a minute at most."""
        self._fetching = False
        self._failures += 1
        self._due_at = self._not_before = now + self._retry()

    def _retry(self) -> float:
        return min(_LONGEST_RETRY, 2.0 ** min(self._failures, 6))
