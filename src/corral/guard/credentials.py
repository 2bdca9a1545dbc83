"""Who is calling: API keys, looked up by their hash and compared in constant time."""

from collections.abc import Mapping
from hashlib import sha256
from hmac import compare_digest

from corral.policy.model import ApiKey


class KeyRing:
    """The keys that are let in. Only their hashes are held."""

    def __init__(self, keys: tuple[ApiKey, ...]) -> None:
        self._by_digest = {bytes.fromhex(key.sha256): key for key in keys}

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, presented: bytes) -> ApiKey | None:
        """Find the key that was presented, or None.

        The look-up is by SHA-256, so its time says nothing about how much of a guess was right.
        """
        digest = sha256(presented).digest()
        key = self._by_digest.get(digest)
        if key is not None and compare_digest(digest, bytes.fromhex(key.sha256)):
            return key
        return None


def presented_key(head: Mapping[bytes, bytes]) -> bytes | None:
    """Read the credential from `Authorization: Bearer` or `X-Api-Key`; None if neither is there.

    An Authorization header of another scheme is an empty, and so a wrong, key. Where both headers are sent,
    Authorization is the one that is read.
    """
    authorization = head.get(b"authorization")
    if authorization is not None:
        scheme, _, value = authorization.partition(b" ")
        return value.strip() if scheme.lower() == b"bearer" else b""
    return head.get(b"x-api-key")
