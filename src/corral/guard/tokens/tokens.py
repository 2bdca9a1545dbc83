"""Tokens as the authenticator sees them: verified once, then remembered until they end or their key goes."""

# ruff: noqa: SLF001  # who takes over reads what its predecessor, of the same class, keeps

import asyncio
from hashlib import sha256
from typing import TYPE_CHECKING

from corral.guard.credentials import Credential, Rejection
from corral.guard.tokens.claims import USER_PREFIX
from corral.guard.tokens.issuer_keys import IssuerKeys
from corral.guard.tokens.keys import policy_key
from corral.guard.tokens.verifier import KeySource, PolicyKey, TokenVerifier, claimed_user
from corral.policy.model import Jwt

if TYPE_CHECKING:
    from corral.guard.tokens.fetch import KeyFetcher

_REMEMBERED = 10_000


class Tokens:
    """Judges tokens by `[jwt]`. Remembers at most `capacity` of them, by their hash.

    `generation` changes when a key may be gone; what it signed is forgotten then.
    """

    def __init__(
        self, jwt: Jwt, keys: KeySource, fetcher: "KeyFetcher | None" = None, *, capacity: int = _REMEMBERED
    ) -> None:
        self._jwt = jwt
        self._keys = keys
        self._verifier = TokenVerifier(jwt, keys)
        self._fetcher = fetcher
        self._capacity = capacity
        self._known: dict[bytes, Credential] = {}
        self.generation = keys.generation

    @classmethod
    def from_policy(cls, jwt: Jwt, loop: asyncio.AbstractEventLoop, before: "Tokens | None" = None) -> "Tokens":
        """Build what the policy describes.

        Where its issuer is that of `before`, and nothing of it has changed, what was fetched from there stays. What
        `before` has is not touched: whoever builds this either closes `before`, saying what follows it, or this one.

        Raises:
            PolicyError: its key cannot be used.

        """
        if jwt.jwks_url is None:
            return cls(jwt, PolicyKey(policy_key(jwt)))
        if before is not None and _same_issuer(jwt, before._jwt):
            return cls(jwt, before._keys, before._fetcher)
        from corral.guard.tokens.fetch import KeyFetcher  # noqa: PLC0415  # loads an HTTP client, in 0.1 s

        keys = IssuerKeys(jwt.jwks_refresh, jwt.algorithms)
        return cls(jwt, keys, KeyFetcher(jwt, keys, loop))

    def __len__(self) -> int:
        return len(self._known)

    def tick(self, now: float) -> None:
        """Fetch keys when it is time, and forget what those that are gone have signed."""
        if self._fetcher is not None:
            self._fetcher.tick(now)
        if self.generation != self._keys.generation:
            self.generation = self._keys.generation
            self._known.clear()

    async def close(self, successor: object = None) -> None:
        """Let go of the issuer, unless `successor` goes on with it."""
        shared = isinstance(successor, Tokens) and successor._fetcher is self._fetcher
        if self._fetcher is not None and not shared:
            await self._fetcher.close()

    def recall(self, token: bytes, wall: float) -> Credential | None:
        """Find what was concluded from `token`, if that still holds at `wall`: one hash, one look-up."""
        if not self._known:
            return None
        known = self._known.get(sha256(token).digest())
        return known if known is not None and known.expires is not None and wall < known.expires else None

    def verify(self, token: bytes, wall: float) -> Credential | Rejection:
        """Judge `token` at `wall`, and remember it if it is good."""
        outcome = self._verifier.verify(token, wall)
        # Keys that have changed since the last tick must not vouch for what is remembered until the next.
        if type(outcome) is Credential and self.generation == self._keys.generation:
            if len(self._known) >= self._capacity:
                del self._known[next(iter(self._known))]
            self._known[sha256(token).digest()] = outcome
        return outcome

    def claimed_name(self, token: bytes) -> str | None:
        """Name whom `token` claims to be of, believing nothing."""
        user = claimed_user(token, self._jwt)
        return None if user is None else USER_PREFIX + user


def _same_issuer(jwt: Jwt, before: Jwt) -> bool:
    """Tell whether the keys of two policies are fetched from the same place, in the same way."""
    return (jwt.jwks_url, jwt.algorithms, jwt.jwks_refresh) == (
        before.jwks_url, before.algorithms, before.jwks_refresh,
    )  # fmt: skip
