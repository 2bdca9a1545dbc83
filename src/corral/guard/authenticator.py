"""Whether a credential lets its holder in: keys, whoever is on a plan that is not there, and what has changed since."""

import math
from collections.abc import Collection

from corral.guard.credentials import Credential, KeyRing, Rejection
from corral.guard.key_watch import KeyWatch

_JUMP = 1.0
"""Seconds by which the wall clock may drift before everything that was concluded from it is concluded anew."""


class Authenticator:
    """Judges what callers present. `now` is the pipeline's clock; `tick` tells how it stands to the wall clock.

    Until the first `tick` nothing that expires is let in. `generation` changes whenever somebody who was let in might
    not be any more: whoever remembers a credential compares it, and asks again.
    """

    def __init__(self, ring: KeyRing, plans: Collection[str] = (), *, watch: KeyWatch | None = None) -> None:
        self._ring = ring
        self._plans = frozenset(plans)
        self._watch = watch
        self._wall_offset = math.inf
        self._jumps = 0
        self.generation = 0

    def tick(self, now: float, wall: float) -> None:
        """Follow the clock, and the store. To be called a few times a second; never raises."""
        offset = wall - now
        if not abs(offset - self._wall_offset) < _JUMP:
            self._jumps += 1
        self._wall_offset = offset
        if self._watch is not None:
            self._watch.poll()
        self.generation = self._jumps + self._ring.generation

    def recall(self, presented: bytes, now: float) -> Credential | Rejection | None:
        """Judge by what is known already: one look-up. None where more would have to be done."""
        return self._on_plan(self._ring.find(presented, now + self._wall_offset))

    def verify(self, presented: bytes, now: float) -> Credential | Rejection:  # noqa: ARG002  # keys need no more
        """Judge what `recall` could not."""
        return INVALID

    def valid_until(self, credential: Credential) -> float:
        """Say when `credential` ends, by the pipeline's clock."""
        return math.inf if credential.expires is None else credential.expires - self._wall_offset

    def _on_plan(self, outcome: Credential | Rejection | None) -> Credential | Rejection | None:
        if type(outcome) is Credential and outcome.plan is not None and outcome.plan not in self._plans:
            return Rejection(
                "forbidden",
                f'The credential is on the plan "{outcome.plan}", which this guard does not have.',
                counts=False,
            )
        return outcome


INVALID = Rejection("invalid_api_key", "The API key is not valid.")
