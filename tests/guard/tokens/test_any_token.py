"""Whatever is sent as a token is judged; nothing raises, and nothing that was not signed gets in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.guard.credentials import Rejection
from corral.guard.tokens.issuer_keys import IssuerKeys
from corral.guard.tokens.keys import policy_key, published_keys
from corral.guard.tokens.verifier import PolicyKey, TokenVerifier, claimed_user
from corral.policy.model import Jwt
from signed_tokens import EC, ED, NOW, OCT, RSA, SECRET, jwks, part, sign

JWT = Jwt(secret=SECRET)
KEYS = IssuerKeys(900.0)
KEYS.fetched(published_keys(jwks(RSA, EC, ED), ()), b"x", 0.0)
VERIFIERS = (TokenVerifier(JWT, PolicyKey(policy_key(JWT))), TokenVerifier(Jwt(jwks_url="https://i.example"), KEYS))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["alg", "kid", "typ", "cty", "crit", "x5t", "x5t#S256", "jwk", "sub", "exp", "nbf", "aud", "iss"]
)
ALGORITHMS = st.sampled_from(["HS256", "RS256", "ES256", "EdDSA", "none"])


def judge_all(token: bytes) -> None:
    for verifier in VERIFIERS:
        assert isinstance(verifier.verify(token, NOW), Rejection)
    claimed_user(token, JWT)


@given(st.binary(max_size=200) | st.text(alphabet="eyJ.-_=+/ \n0", max_size=60).map(str.encode))
def test_any_bytes_are_refused(token):
    judge_all(token)


@given(ALGORITHMS, st.dictionaries(NAMES, JSON, max_size=5), JSON, st.binary(max_size=80))
def test_any_unsigned_json_is_refused(algorithm, header, claims, signature):
    judge_all(f"{part({'alg': algorithm, **header})}.{part(claims)}.{part(signature)}".encode())


@given(st.dictionaries(NAMES, JSON, max_size=5), JSON)
def test_any_signed_json_is_judged(header, claims):
    for verifier in VERIFIERS:
        verifier.verify(sign(OCT, "HS256", claims, **{**header, "alg": "HS256"}), NOW)
        verifier.verify(sign(EC, "ES256", claims, **{**header, "alg": "ES256", "kid": "ec"}), NOW)


@pytest.mark.parametrize("depth", [500, 990, 1000, 1010, 1020, 1024, 1030, 3000])
def test_deep_nesting_is_refused(depth):
    nest = "[" * depth + "]" * depth
    header = part(f'{{"alg":"HS256","x":{nest}}}'.encode())
    for verifier in (TokenVerifier(Jwt(secret=SECRET, max_length=64 * 1024), PolicyKey(policy_key(JWT))),):
        assert isinstance(
            verifier.verify(f"{header}.{part(json.dumps({'sub': 'a'}).encode())}.AA".encode(), NOW), Rejection
        )
        verifier.verify(sign(OCT, "HS256", f'{{"x":{nest}}}'.encode()), NOW)
