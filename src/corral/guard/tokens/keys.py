"""The keys that tokens are checked with: from the policy, or from a set that an issuer publishes (RFC 7517).

Which algorithms a key may check is decided by the key alone, never by a token: so a public key is never taken for an
HMAC secret, nor one curve's key for another's (RFC 8725, section 3.1).
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, JWKRegistry, Key, OctKey, OKPKey, RSAKey

from corral.errors import PolicyError
from corral.policy.model import Jwt

_LEAST_RSA = 2048  # bits (RFC 7518, section 3.3)
_LEAST_SECRET = {"HS256": 32, "HS384": 48, "HS512": 64}  # bytes (RFC 7518, section 3.2)
_LEAST_VARIETY = 8  # different bytes in a secret: fewer are no random ones
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",), "Ed25519": ("EdDSA", "Ed25519")}
_MOST_KEYS = 64  # in one published set

_KINDS: tuple[Literal["RSA", "EC", "OKP"], ...] = ("RSA", "EC", "OKP")


@dataclass(frozen=True, slots=True, eq=False)
class VerifyKey:
    """A key, its name in the issuer's set ("" for none), and the algorithms that it may check."""

    kid: str
    key: Key
    algorithms: frozenset[str]


def policy_key(jwt: Jwt) -> VerifyKey:
    """Read the key that the policy names: `secret`, `secret_file` or `public_key`.

    Raises:
        PolicyError: it cannot be read, is too weak, or does not fit the algorithms.

    """
    if jwt.public_key is not None:
        return _public_key(jwt.public_key, jwt.algorithms)
    secret = (
        jwt.secret.encode() if jwt.secret is not None else _read("secret_file", str(jwt.secret_file)).rstrip(b"\r\n")
    )
    name = "secret" if jwt.secret is not None else "secret_file"
    algorithms = jwt.algorithms or ("HS256",)
    least = max(_LEAST_SECRET[algorithm] for algorithm in algorithms)
    if len(secret) < least or len(set(secret)) < _LEAST_VARIETY:
        raise PolicyError(
            f"jwt.{name}: this secret can be guessed: {', '.join(algorithms)} needs {least} random bytes at least, "
            "as from: openssl rand -hex 64"
        )
    try:
        with warnings.catch_warnings(action="error", category=SecurityWarning):
            key = OctKey.import_key(secret)
    except (ValueError, SecurityWarning):
        raise PolicyError(f"jwt.{name}: this is no secret but another kind of key; name it as public_key.") from None
    return VerifyKey("", key, frozenset(algorithms))


def published_keys(data: bytes, allowed: Iterable[str]) -> tuple[VerifyKey, ...]:
    """Read the keys of a JWK Set that can check signatures with `allowed` algorithms (all asymmetric ones, if none).

    Secrets in it are passed over, since what is published is none; and so are keys for encryption, weak ones, and
    those of kinds that are not known.

    Raises:
        ValueError: this is no JWK Set, has too many keys, or none that can be used.

    """
    try:
        entries = orjson.loads(data)["keys"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise ValueError("this is no JWK Set") from None
    if not isinstance(entries, list) or len(entries) > _MOST_KEYS:
        raise ValueError(f"a JWK Set has a list of at most {_MOST_KEYS} keys")
    wanted = frozenset(allowed)
    keys = tuple(key for entry in entries if isinstance(entry, dict) and (key := _published(entry, wanted)) is not None)
    if not keys:
        raise ValueError("it has no key that could check a token")
    return keys


def _published(entry: dict[str, object], wanted: frozenset[str]) -> VerifyKey | None:
    operations = entry.get("key_ops")
    if entry.get("use", "sig") != "sig" or not (operations is None or _holds(operations, "verify")):
        return None
    kind = next((kind for kind in _KINDS if kind == entry.get("kty")), None)
    kid = entry.get("kid", "")
    if kind is None or not isinstance(kid, str):
        return None
    # Only the public half is read, and nothing that points elsewhere.
    names = ("kty", "crv", "x", "y", "n", "e")
    plain: dict[str, str | list[str]] = {name: value for name in names if isinstance(value := entry.get(name), str)}
    try:
        with warnings.catch_warnings(action="ignore", category=SecurityWarning):
            key = JWKRegistry.import_key(plain, kind)
            algorithms = frozenset(_algorithms(key))
    except (JoseError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        return None
    if isinstance(entry.get("alg"), str):
        algorithms &= {entry["alg"]}
    if wanted:
        algorithms &= wanted
    return VerifyKey(kid, key, algorithms) if algorithms else None


def _holds(value: object, wanted: str) -> bool:
    return isinstance(value, list) and wanted in value


def _algorithms(key: Key) -> tuple[str, ...]:
    """List what `key` may check: by its type, its curve, and its size."""
    if isinstance(key, RSAKey):
        return _RSA if key.public_key.key_size >= _LEAST_RSA else ()
    if isinstance(key, ECKey | OKPKey):
        return _CURVES.get(key.curve_name, ())
    return ()


def _public_key(path: str, wanted: tuple[str, ...]) -> VerifyKey:
    pem = _read("public_key", path)
    if b"PRIVATE KEY" in pem:
        raise PolicyError(f"jwt.public_key: {path} holds a private key; keep that where tokens are made: "
                          "openssl pkey -pubout writes the public one.")  # fmt: skip
    if b"CERTIFICATE" in pem:
        raise PolicyError(f"jwt.public_key: {path} holds a certificate: openssl x509 -pubkey -noout writes its key.")
    try:
        loaded = load_pem_public_key(pem)
        plain = loaded.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise PolicyError(f"jwt.public_key: {path} holds no public key in PEM form.") from None
    for kind in _KINDS:
        try:
            with warnings.catch_warnings(action="ignore", category=SecurityWarning):
                key = JWKRegistry.import_key(plain, kind)
        except (JoseError, ValueError, TypeError):
            continue
        possible = _algorithms(key)
        if possible:
            return VerifyKey("", key, frozenset(_fitting(possible, wanted)))
    raise PolicyError(f"jwt.public_key: the key in {path} is of no use here: RSA of 2048 bits or more, P-256, P-384, "
                      "P-521 or Ed25519 are.")  # fmt: skip


def _fitting(possible: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    for algorithm in wanted:
        if algorithm not in possible:
            raise PolicyError(f"jwt.algorithms: {algorithm} does not work with the public key; {possible[0]} does.")
    return wanted or possible


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise PolicyError(f"jwt.{name}: {path} cannot be read: {error.strerror}.") from None
