"""Who is calling: API keys, looked up by their hash and compared in constant time, and where a request carries one."""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping
from hashlib import sha256
from hmac import compare_digest
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from corral.guard.key_store import StoredKey
from corral.guard.new_key import PREFIX
from corral.policy.model import ApiKey


class Credential(NamedTuple):
    """Somebody who was let in.

    `name` is who is counted and logged; `user` whom the credential speaks of (for keys the same); `plan` the name of
    a plan, None for none; `expires` in seconds since the epoch, None is never. `id` tells a key from others of the same
    name, which a rotation makes; "" for a token, which is as good as the next one of its user.
    """

    name: str
    user: str
    plan: str | None
    admin: bool
    expires: float | None
    id: str = ""


class Rejection(NamedTuple):
    """Why a credential lets nobody in. `kind` is one of `dialects.errors`; `message` is for its holder.

    `counts` says whether it is a failed attempt: what is no fault of the caller's is none. `retry_after` in seconds.
    """

    kind: str
    message: str
    counts: bool = True
    retry_after: float | None = None


KEY_IN_URL = (
    "The URL carries a key. URLs are kept in logs and histories, so a key is taken from a header alone: "
    "Authorization: Bearer KEY. Replace this key, and send the new one there."
)
EXPIRED = Rejection("expired_api_key", "The API key has expired.")
REVOKED = Rejection("revoked_api_key", "The API key was revoked.")


class KeyLabel(NamedTuple):
    """What people know a key by: its name, and how it begins; "" where that was not kept, as of a policy's keys."""

    name: str
    prefix: str


class _Entry(NamedTuple):
    digest: bytes
    credential: Credential
    revoked: bool


class KeyRing:
    """The keys that are let in: the policy's, and those of a store. Only their hashes are held.

    A key that is in both counts as the store has it, so that revoking it there ends it. `generation` changes with the
    keys: what was concluded from an older one may not hold any more.
    """

    def __init__(self, keys: Iterable[ApiKey], stored: Iterable[StoredKey] = ()) -> None:
        self._own = {}
        for key in keys:
            digest = bytes.fromhex(key.sha256)
            credential = Credential(key.name, key.name, key.plan, key.admin, None, key_id(digest))
            self._own[digest] = _Entry(digest, credential, revoked=False)
        self._by_digest = self._own
        self._labels: dict[str, KeyLabel] = {}
        self.generation = 0
        self.replace_stored(stored)

    def __len__(self) -> int:
        return len(self._by_digest)

    def replace_stored(self, stored: Iterable[StoredKey]) -> None:
        """Take `stored` in the place of all keys that came from the store before."""
        stored = tuple(stored)
        entries = {
            key.sha256: _Entry(
                key.sha256,
                Credential(key.name, key.name, key.plan, key.admin, key.expires, key_id(key.sha256)),
                key.revoked is not None,
            )
            for key in stored
        }
        self._by_digest = self._own | entries
        self._labels = {key_id(digest): KeyLabel(own.credential.name, "") for digest, own in self._own.items()}
        self._labels |= {key_id(key.sha256): KeyLabel(key.name, key.prefix) for key in stored}
        self.generation += 1

    def label(self, identifier: str) -> KeyLabel | None:
        """Say what people know the key by whose `Credential.id` this is; None where there is no such key."""
        return self._labels.get(identifier)

    def find(self, presented: bytes, wall: float) -> Credential | Rejection | None:
        """Find whom the key lets in at `wall` (seconds since the epoch); None where the key is unknown.

        The look-up is by SHA-256, so its time says nothing about how much of a guess was right.
        """
        digest = sha256(presented).digest()
        entry = self._by_digest.get(digest)
        if entry is None or not compare_digest(digest, entry.digest):
            return None
        if entry.revoked:
            return REVOKED
        credential = entry.credential
        if credential.expires is not None and wall >= credential.expires:
            return EXPIRED
        return credential


def key_id(digest: bytes) -> str:
    """Name a key by its digest, without naming the key: half of it."""
    return digest[:16].hex()


def presented_key(head: Mapping[bytes, bytes]) -> bytes | None:
    """Read the credential: `Authorization: Bearer`, the password of `Basic` (RFC 7617), or `X-Api-Key`; else None.

    An Authorization header of another scheme is an empty, and so a wrong, key. Where both headers are sent,
    Authorization is the one that is read.
    """
    authorization = head.get(b"authorization")
    if authorization is None:
        return head.get(b"x-api-key")
    scheme, _, value = authorization.partition(b" ")
    scheme = scheme.lower()
    if scheme == b"bearer":
        return value.strip()
    return _password(value.strip()) if scheme == b"basic" else b""


def _password(encoded: bytes) -> bytes:
    """Read the password from Basic credentials; what is not well formed is an empty one."""
    try:
        _, colon, password = b64decode(encoded, validate=True).partition(b":")
    except Base64Error:
        return b""
    return password if colon else b""


_NAMES_IN_URLS = frozenset((
    b"accesstoken", b"apikey", b"apitoken", b"auth", b"authkey", b"authorization", b"authtoken", b"bearer", b"idtoken",
    b"jwt", b"key", b"password", b"secret", b"token", b"xapikey",
))  # fmt: skip
_PAIR = re.compile(rb"[&;]")
_MARK = PREFIX.encode()


def key_in_query(query: bytes) -> bool:
    """Tell whether a query string carries a key: by its parameter's name, or because it looks like one of ours.

    What stands in a URL ends up in logs, histories and Referer headers (RFC 6750, section 5.3), so it is refused.
    """
    if _MARK in query:
        return True
    for pair in _PAIR.split(query):
        name, equals, _ = pair.partition(b"=")
        plain = unquote_to_bytes(name).strip(b" +[]").lower().replace(b"_", b"").replace(b"-", b"")
        if equals and plain in _NAMES_IN_URLS:
            return True
    return False
