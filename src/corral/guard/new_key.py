"""API keys: made so that nobody can guess one, recognised when mistyped, and kept only as their hash."""

import hashlib
import secrets
import zlib

PREFIX = "crl_"
"""What each key starts with, so that secret scanners and people know whose it is."""

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_LENGTH = 43  # the least n with 62**n >= 2**256
_CHECKSUM_LENGTH = 6  # the least n with 62**n >= 2**32
_LENGTH = len(PREFIX) + _SECRET_LENGTH + _CHECKSUM_LENGTH


def new_key() -> str:
    """Make a key: `crl_`, 256 random bits in base 62, a checksum: 53 characters, safe in URLs and shells."""
    body = PREFIX + _base62(secrets.randbits(256), _SECRET_LENGTH)
    return body + _checksum(body)


def looks_like_key(text: str) -> bool:
    """Say whether `text` is spelled as `new_key` spells keys, checksum included: one typo makes it False.

    Says nothing about whether anybody is let in with it.
    """
    if len(text) != _LENGTH or not text.startswith(PREFIX):
        return False
    body, checksum = text[:-_CHECKSUM_LENGTH], text[-_CHECKSUM_LENGTH:]
    return text.isascii() and checksum == _checksum(body)


def hash_key(key: str) -> str:
    """Hash a key as the policy keeps it: lower-case hex SHA-256 of its UTF-8 bytes."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
