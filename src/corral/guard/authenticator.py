"""Whether a credential lets its holder in: keys, tokens, plans that are not there, and what has changed since."""

import math
from collections.abc import Collection
from typing import Protocol

from corral.guard.credentials import Credential, KeyLabel, KeyRing, Rejection
from corral.guard.key_watch import KeyWatch

_JUMP = 1.0
"""Seconds by which the wall clock may drift before everything that was concluded from it is concluded anew."""

INVALID = Rejection("invalid_api_key", "The API key is not valid.")


class TokenJudge(Protocol):
    """What judges tokens: `corral.guard.tokens`, which is loaded only where `[jwt]` is configured."""

    generation: int

    def tick(self, now: float) -> None:
        """Do what is due. Never raises."""
        ...

    async def close(self, successor: object = None) -> None:
        """Let go of what is open, but for what `successor` goes on with."""
        ...

    def recall(self, token: bytes, wall: float) -> Credential | None:
        """Find what was concluded from `token` before; None if nothing was."""
        ...

    def verify(self, token: bytes, wall: float) -> Credential | Rejection:
        """Judge `token`."""
        ...

    def claimed_name(self, token: bytes) -> str | None:
        """Name whom `token` claims to be of, believing nothing."""
        ...


class Authenticator:
    """Judges what callers present. `now` is the pipeline's clock; `tick` tells how it stands to the wall clock.

    Until the first `tick` nothing that expires is let in. `generation` changes whenever somebody who was let in might
    not be any more: whoever remembers a credential compares it, and asks again. It begins with the one given:
    an authenticator that takes another's place does not believe what was concluded by that one.
    """

    def __init__(
        self,
        ring: KeyRing,
        plans: Collection[str] = (),
        *,
        watch: KeyWatch | None = None,
        tokens: TokenJudge | None = None,
        generation: int = 0,
    ) -> None:
        self._ring = ring
        self._plans = frozenset(plans)
        self._watch = watch
        self.tokens = tokens
        self._wall_offset = math.inf
        self._jumps = 0
        self._first_generation = generation
        self.generation = generation

    def tick(self, now: float, wall: float) -> None:
        """Follow the clock, the store and the issuer. To be called a few times a second; never raises."""
        offset = wall - now
        if not abs(offset - self._wall_offset) < _JUMP:
            self._jumps += 1
        self._wall_offset = offset
        generation = self._first_generation + self._jumps
        if self._watch is not None:
            self._watch.poll()
        if self.tokens is not None:
            self.tokens.tick(now)
            generation += self.tokens.generation
        self.generation = generation + self._ring.generation

    async def close(self, successor: "Authenticator | None" = None) -> None:
        """Let go of the store and the issuer, but for what `successor` goes on with."""
        if self._watch is not None:
            self._watch.close()
        if self.tokens is not None:
            await self.tokens.close(None if successor is None else successor.tokens)

    def recall(self, presented: bytes, now: float) -> Credential | Rejection | None:
        """Judge by what is known already: a look-up or two. None where more would have to be done."""
        wall = now + self._wall_offset
        outcome = self._ring.find(presented, wall)
        if outcome is None and self.tokens is not None:
            outcome = self.tokens.recall(presented, wall)
        return outcome if outcome is None else self._on_plan(outcome)

    def verify(self, presented: bytes, now: float) -> Credential | Rejection:
        """Judge what `recall` could not: check a signature, where it may be a token."""
        if self.tokens is None or not looks_like_token(presented):
            return INVALID
        return self._on_plan(self.tokens.verify(presented, now + self._wall_offset))

    def claimed_name(self, presented: bytes) -> str | None:
        """Name whom a token claims to be of, believing nothing; None for what is no token."""
        return self.tokens.claimed_name(presented) if self.tokens is not None else None

    def label(self, identifier: str) -> KeyLabel | None:
        """Say what people know the key by whose `Credential.id` this is; None where there is no such key."""
        return self._ring.label(identifier)

    def valid_until(self, credential: Credential) -> float:
        """Say when `credential` ends, by the pipeline's clock."""
        return math.inf if credential.expires is None else credential.expires - self._wall_offset

    def _on_plan(self, outcome: Credential | Rejection) -> Credential | Rejection:
        if type(outcome) is Credential and outcome.plan is not None and outcome.plan not in self._plans:
            message = f'The credential is on the plan "{outcome.plan}", which this guard does not have.'
            return Rejection("forbidden", message, counts=False)
        return outcome


def looks_like_token(presented: bytes) -> bool:
    """Tell whether a credential that is no known key may be a token: three parts, or five if encrypted."""
    return presented.count(b".") in (2, 4)
