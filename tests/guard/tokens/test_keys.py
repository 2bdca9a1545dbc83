"""Which keys are taken, and what each may check."""

import json

import pytest
from joserfc.jwk import ECKey, OKPKey

from corral.errors import PolicyError
from corral.guard.tokens.keys import policy_key, published_keys
from corral.policy.model import Jwt
from signed_tokens import EC, EC384, ED, OCT, RSA, SECRET, jwks, pem


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [(RSA, {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}), (EC, {"ES256"}), (EC384, {"ES384"}),
     (ED, {"EdDSA", "Ed25519"})],
)  # fmt: skip
def test_a_public_key_checks_the_algorithms_of_its_type(tmp_path, key, algorithms):
    path = tmp_path / "key.pem"
    path.write_text(pem(key))
    assert policy_key(Jwt(public_key=str(path))).algorithms == algorithms
    (published,) = published_keys(jwks(key), ())
    assert (published.kid, published.algorithms) == (key.kid, algorithms)


def test_a_secret_is_read_from_the_policy_or_a_file(tmp_path):
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    for jwt in (Jwt(secret=SECRET), Jwt(secret_file=str(path))):
        key = policy_key(jwt)
        assert key.key.raw_value == SECRET.encode()
        assert key.algorithms == {"HS256"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (EC.as_pem(private=True).decode(), "holds a private key"),
        ("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "openssl x509"),
        ("nonsense", "no public key"),
        (pem(OKPKey.generate_key("Ed448")), "of no use here"),
        (pem(ECKey.generate_key("secp256k1")), "of no use here"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_usable_public_key_is_said(tmp_path, text, said):
    path = tmp_path / "key.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PolicyError, match=said) as caught:
        policy_key(Jwt(public_key=str(path)))
    assert "jwt.public_key: " in str(caught.value)


def test_a_public_key_is_never_a_secret(tmp_path):
    path = tmp_path / "key.pem"
    path.write_text(pem(RSA))
    with pytest.raises(PolicyError, match="no secret but another kind of key"):
        policy_key(Jwt(secret_file=str(path)))


def test_a_published_set_is_narrowed_to_what_is_allowed():
    keys = published_keys(jwks(RSA, EC, ED), ("ES256", "RS256"))
    assert [(key.kid, set(key.algorithms)) for key in keys] == [("rsa", {"RS256"}), ("ec", {"ES256"})]


def test_what_is_published_is_no_secret_and_no_private_key():
    entries = [OCT.as_dict(), EC.as_dict(private=True), {"kty": "oct", "k": 1}, 3, None, {"kty": ["EC"]}]
    (key,) = published_keys(json.dumps({"keys": entries}).encode(), ())
    assert not key.key.is_private


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[]}', b'{"keys":[3]}', jwks(*[EC] * 65), b"<html>", jwks(OCT)],
)
def test_what_is_no_set_of_usable_keys_is_refused(data):
    with pytest.raises(ValueError):
        published_keys(data, ())
