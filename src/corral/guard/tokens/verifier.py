"""Whether a token is genuine, and whom it lets in. No I/O, no clock: the key source and the time are arguments."""

from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from typing import Any, Protocol

import orjson
from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jws import JWSRegistry

from corral.guard.credentials import Credential, Rejection
from corral.guard.tokens.claims import read_claims
from corral.guard.tokens.keys import VerifyKey
from corral.policy.model import Jwt

_FORBIDDEN = ("crit", "b64", "zip", "jku", "jwk", "x5u", "x5c")
"""Header members that would change how the token is read, or bring or fetch a key of the sender's choice."""

_USUAL_TYPES = frozenset(("", "jwt", "at+jwt"))
_LONGEST_KID = 256


class KeySource(Protocol):
    """Where the keys are. `generation` changes when a key that was there may be gone."""

    generation: int

    def choose(self, kid: str | None, algorithm: str) -> VerifyKey | Rejection:
        """Find the one key that may check a token with this header, or say why there is none."""
        ...


class PolicyKey:
    """The one key that the policy names; what a token says of its key does not matter."""

    def __init__(self, key: VerifyKey) -> None:
        self._key = key
        self.generation = 0

    def choose(self, kid: str | None, algorithm: str) -> VerifyKey | Rejection:  # noqa: ARG002  # the protocol's
        """Give the key, if it may check `algorithm`; see `KeySource.choose`."""
        return self._key if algorithm in self._key.algorithms else wrong_algorithm(algorithm)


class TokenVerifier:
    """Verifies compact signed tokens (RFC 7515) by the policy's `[jwt]`."""

    def __init__(self, jwt: Jwt, keys: KeySource) -> None:
        self._jwt = jwt
        self._keys = keys
        self._types = _USUAL_TYPES if jwt.type is None else frozenset((_type_name(jwt.type),))
        self._registries: dict[str, _OneAlgorithm] = {}

    def verify(self, token: bytes, wall: float) -> Credential | Rejection:
        """Judge `token` at `wall` (seconds since the epoch). What is refused is refused as cheaply as it can be."""
        if len(token) > self._jwt.max_length:
            return invalid(f"it is longer than {self._jwt.max_length} bytes")
        parts = token.split(b".")
        if len(parts) != 3:
            return invalid("it is encrypted, and only signed ones are read" if len(parts) == 5 else "it is none")
        header = _decode(parts[0])
        if header is None:
            return invalid("its header cannot be read")
        forbidden = next((name for name in _FORBIDDEN if name in header), None)
        if forbidden is not None:
            return invalid(f'its header has "{forbidden}", which is not allowed')
        algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ", "")
        if type(algorithm) is not str or not (kid is None or (type(kid) is str and len(kid) <= _LONGEST_KID)):
            return invalid("its header cannot be read")
        if type(typ) is not str or _type_name(typ) not in self._types:
            return invalid("it is a token of another type")
        key = self._keys.choose(kid, algorithm)
        if type(key) is Rejection:
            return key
        assert isinstance(key, VerifyKey)
        if not self._is_signed(token, key, algorithm):
            return invalid("its signature does not fit")
        claims = _decode(parts[1])
        if claims is None:
            return invalid("its claims cannot be read")
        return read_claims(claims, self._jwt, wall)

    def _is_signed(self, token: bytes, key: VerifyKey, algorithm: str) -> bool:
        registry = self._registries.get(algorithm)
        if registry is None:
            registry = self._registries[algorithm] = _OneAlgorithm(algorithm, self._jwt.max_length)
        try:
            jws.deserialize_compact(token, key.key, registry=registry)
        except (JoseError, ValueError, TypeError, RecursionError):
            # joserfc reads the header once more, with a parser that nests less deep than ours.
            return False
        return True


class _OneAlgorithm(JWSRegistry):
    """Knows one algorithm: what a header says is compared with it, and chooses nothing."""

    def __init__(self, algorithm: str, longest: int) -> None:
        # Unknown header members must be ignored (RFC 7515, section 4); the forbidden ones were looked for before.
        super().__init__(algorithms=(algorithm,), strict_check_header=False)
        self._only = algorithm
        self.max_header_length = self.max_payload_length = self.max_signature_length = longest

    def get_alg(self, name: str) -> Any:
        """Give the algorithm, without joserfc's warning at each use of the name EdDSA."""
        if name != self._only:
            raise UnsupportedAlgorithmError
        return self.algorithms[name]


def claimed_user(token: bytes, jwt: Jwt) -> str | None:
    """Read who a token says it is of, believing nothing; None where it cannot be read."""
    parts = token.split(b".", 3)
    claims = _decode(parts[1]) if len(token) <= jwt.max_length and len(parts) == 3 else None
    user = claims.get(jwt.user_claim) if claims is not None else None
    return user if type(user) is str else None


def invalid(why: str) -> Rejection:
    """Refuse a token."""
    return Rejection("invalid_token", f"The token is not valid: {why}.")


def wrong_algorithm(algorithm: str) -> Rejection:
    """Refuse a token for its algorithm; "none" is never accepted."""
    unsigned = algorithm.lower() == "none"
    return invalid("it is not signed" if unsigned else "it is signed with an algorithm that is not accepted")


def _type_name(typ: str) -> str:
    """Write a media type as `typ` does: in lower case, without application/ (RFC 7515, section 4.1.9)."""
    return typ.lower().removeprefix("application/")


def _decode(part: bytes) -> dict[str, object] | None:
    """Read a JSON object from base64url without padding; strictly, and in UTF-8 alone."""
    try:
        value = orjson.loads(_unpadded(part))
    except (Base64Error, ValueError):
        return None
    return value if type(value) is dict else None


def _unpadded(part: bytes) -> bytes:
    plain = part.replace(b"-", b"").replace(b"_", b"")
    if not plain.isalnum() and plain:
        raise ValueError
    return urlsafe_b64decode(part + b"=" * (-len(part) % 4))
