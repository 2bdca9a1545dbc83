"""RFC 8725, JSON Web Token Best Current Practices: section 3, one test for each of its rules."""

import json

import pytest
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, RSAKey

from corral.errors import PolicyError
from corral.guard.credentials import Credential, Rejection
from corral.guard.tokens.issuer_keys import IssuerKeys
from corral.guard.tokens.keys import policy_key, published_keys
from corral.guard.tokens.verifier import PolicyKey, TokenVerifier
from corral.policy.model import Jwt
from signed_tokens import CLAIMS, EC, EC384, ED, NOW, OCT, RSA, SECRET, jwks, part, pem, sign


@pytest.fixture
def by_key(tmp_path):
    """Build a verifier for one key: a secret, or a public one."""

    def build(key, **settings) -> TokenVerifier:
        if isinstance(key, OctKey):
            jwt = Jwt(secret=SECRET, **settings)
        else:
            path = tmp_path / "key.pem"
            path.write_text(pem(key))
            jwt = Jwt(public_key=str(path), **settings)
        return TokenVerifier(jwt, PolicyKey(policy_key(jwt)))

    return build


def by_issuer(data: bytes, **settings) -> TokenVerifier:
    keys = IssuerKeys(900.0, settings.get("algorithms", ()))
    keys.fetched(published_keys(data, settings.get("algorithms", ())), data, 0.0)
    return TokenVerifier(Jwt(jwks_url="https://i.example", **settings), keys)


def outcome(verifier: TokenVerifier, token: bytes) -> str:
    judged = verifier.verify(token, NOW)
    return judged.user if isinstance(judged, Credential) else judged.kind


def why(verifier: TokenVerifier, token: bytes) -> str:
    judged = verifier.verify(token, NOW)
    assert isinstance(judged, Rejection)
    return judged.message


def test_3_1_perform_algorithm_verification(by_key):
    """Each key checks its own algorithms; what the header says chooses nothing."""
    assert outcome(by_key(RSA), sign(RSA, "RS256")) == "alice"
    # The classic confusion: the public key's text as an HMAC secret.
    public = pem(RSA).encode()
    confused = OctKey(public, public, None)
    for verifier in (by_key(RSA), by_issuer(jwks(RSA))):
        for algorithm in ("HS256", "HS384", "HS512"):
            assert outcome(verifier, sign(confused, algorithm, kid="rsa")) == "invalid_token"
    assert outcome(by_key(EC), sign(RSA, "RS256")) == "invalid_token"
    assert outcome(by_key(RSA, algorithms=("RS256",)), sign(RSA, "PS256")) == "invalid_token"
    assert outcome(by_issuer(jwks(RSA, alg="RS512")), sign(RSA, "RS256", kid="rsa")) == "invalid_token"
    assert outcome(by_issuer(jwks(RSA, EC)), sign(EC, "ES256", kid="rsa")) == "invalid_token"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "HS255", "ES256K", "RS1", "dir"])
def test_3_2_use_appropriate_algorithms(by_key, algorithm):
    """ "none", and what is unknown or deprecated, is never accepted, signed or not."""
    header, claims = part({"alg": algorithm}), part(CLAIMS)
    signature = sign(OCT, "HS256").rpartition(b".")[2].decode()
    for key in (OCT, RSA, EC):
        for token in (f"{header}.{claims}.", f"{header}.{claims}.{signature}"):
            assert outcome(by_key(key), token.encode()) == "invalid_token"
    assert outcome(by_issuer(jwks(RSA)), f"{header}.{claims}.".encode()) == "invalid_token"
    with pytest.raises(PolicyError, match="does not work with the public key"):
        by_key(EC, algorithms=("RS256",))


@pytest.mark.parametrize(("key", "algorithm"), [(OCT, "HS256"), (RSA, "RS256"), (RSA, "PS384"), (EC, "ES256"),
                                               (EC384, "ES384"), (ED, "EdDSA"), (ED, "Ed25519")])  # fmt: skip
def test_3_3_validate_all_cryptographic_operations(by_key, key, algorithm):
    """One changed bit anywhere refuses the whole token, and so does every structure that is not header.claims.signature."""
    verifier = by_key(key)
    token = sign(key, algorithm)
    assert outcome(verifier, token) == "alice"
    header, claims, signature = token.split(b".")
    for forged in (
        b".".join((part({"alg": algorithm, "x": 1}).encode(), claims, signature)),
        b".".join((header, part({**CLAIMS, "sub": "root"}).encode(), signature)),
        b".".join((header, claims, (b"B" if signature[:1] != b"B" else b"C") + signature[1:])),
        b".".join((header, claims, signature[:-4])),
        b".".join((header, claims, b"")),
        b".".join((header, claims)),
        b".".join((header, claims, signature, b"")),
        b".".join((header, claims, signature, claims, signature)),
        b"",
        b"..",
    ):
        assert outcome(verifier, forged) == "invalid_token", forged


def test_3_4_validate_cryptographic_inputs():
    """A key whose point is not on its curve, or whose numbers are none, is not taken."""
    good = EC.as_dict(private=False)
    for wrong in ({"y": good["x"]}, {"x": "AA"}, {"x": "!"}, {"crv": "P-999"}, {"x": None}):
        with pytest.raises(ValueError, match="no key that could"):
            published_keys(json.dumps({"keys": [{**good, **wrong}]}).encode(), ())
    for parts in ({"kty": "RSA", "n": "AA", "e": "AQAB"}, {"kty": "RSA"}, {"kty": "OKP", "crv": "Ed25519", "x": "AA"}):
        with pytest.raises(ValueError, match="no key that could"):
            published_keys(json.dumps({"keys": [parts]}).encode(), ())


def test_3_5_ensure_cryptographic_keys_have_sufficient_entropy(by_key, tmp_path):
    """Passwords are no secrets, short keys no keys."""
    for secret in ("pass", "x" * 64, "abc" * 30, SECRET[:31]):
        with pytest.raises(PolicyError, match="can be guessed") as caught:
            policy_key(Jwt(secret=secret))
        assert secret not in str(caught.value)
    with pytest.raises(PolicyError, match="64 random bytes"):
        policy_key(Jwt(secret=SECRET[:63], algorithms=("HS256", "HS512")))
    with pytest.warns(SecurityWarning):
        weak = RSAKey.generate_key(1024)
    with pytest.raises(PolicyError, match="2048"):
        by_key(weak)
    with pytest.raises(ValueError, match="no key that could"):
        published_keys(jwks(weak), ())


def test_3_6_avoid_compression_of_encryption_inputs(by_key):
    """Encrypted and compressed tokens are not read at all."""
    assert "encrypted" in why(by_key(OCT), b"eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0.a.b.c.d")
    assert '"zip"' in why(by_key(OCT), sign(OCT, "HS256", zip="DEF"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1", "utf-8-sig"])
def test_3_7_use_utf_8(by_key, encoding):
    """JSON in another encoding is none."""
    claims = json.dumps({"sub": "älice", "exp": NOW + 60}, ensure_ascii=False)
    assert outcome(by_key(OCT), sign(OCT, "HS256", claims.encode())) == "älice"
    assert outcome(by_key(OCT), sign(OCT, "HS256", claims.encode(encoding))) == "invalid_token"


def test_3_8_validate_issuer_and_subject(by_key):
    """The issuer must be the one whose keys these are; the subject must be somebody."""
    verifier = by_key(OCT, issuer="https://i.example")
    assert outcome(verifier, sign(OCT, "HS256", {**CLAIMS, "iss": "https://i.example"})) == "alice"
    for issuer in ("https://i.example/", "https://evil.example", "", None, ["https://i.example"], 1):
        assert outcome(verifier, sign(OCT, "HS256", {**CLAIMS, "iss": issuer})) == "invalid_token"
    assert outcome(verifier, sign(OCT, "HS256")) == "invalid_token"
    for subject in ("", "  ", None, 7, ["alice"], "a" * 201, "a\nb", "a\x1b[0m", "a\u202eb"):
        assert outcome(by_key(OCT), sign(OCT, "HS256", {**CLAIMS, "sub": subject})) == "invalid_token"
    assert outcome(by_key(OCT), sign(OCT, "HS256", {"exp": NOW + 60})) == "invalid_token"


def test_3_9_use_and_validate_audience(by_key):
    """A token for somebody else is refused, and so is one for anybody where the policy says not who we are."""
    verifier = by_key(OCT, audience="llm")
    for audience in ("llm", ["llm"], ["other", "llm"]):
        assert outcome(verifier, sign(OCT, "HS256", {**CLAIMS, "aud": audience})) == "alice"
    for audience in ("other", "LLM", "llm ", [], ["other"], None, {"llm": 1}, [["llm"]], 1):
        assert outcome(verifier, sign(OCT, "HS256", {**CLAIMS, "aud": audience})) == "invalid_token"
    assert outcome(verifier, sign(OCT, "HS256")) == "invalid_token"
    assert outcome(by_key(OCT), sign(OCT, "HS256", {**CLAIMS, "aud": "llm"})) == "invalid_token"


def test_3_10_do_not_trust_received_claims(by_key):
    """No key and no URL that a token brings is used, and its kid is only compared."""
    mine = ECKey.generate_key("P-256")
    brought = mine.as_dict(private=False)
    for header in ({"jwk": brought}, {"jku": "https://evil.example"}, {"x5u": "https://evil.example"}, {"x5c": ["a"]},
                   {"crit": ["exp"]}, {"crit": []}, {"b64": False, "crit": ["b64"]}, {"b64": True}):  # fmt: skip
        for verifier in (by_key(EC), by_issuer(jwks(EC))):
            assert "not allowed" in why(verifier, sign(mine, "ES256", **header))
            assert "not allowed" in why(verifier, sign(EC, "ES256", **header))
    for kid in ("../../dev/null", "' OR 1=1 --", "ec\0", "x" * 257, 7, ["ec"], {"ec": 1}):
        assert outcome(by_issuer(jwks(EC)), sign(EC, "ES256", kid=kid)) == "invalid_token"
    assert outcome(by_issuer(jwks(EC)), sign(EC, "ES256", kid="ec")) == "alice"
    assert outcome(by_key(EC), sign(EC, "ES256", kid="whatever", x5t="hint", unknown=1)) == "alice"


def test_3_11_use_explicit_typing(by_key):
    """Tokens of other types are refused; a type that the policy names is demanded."""
    for typ in ("JWT", "jwt", "at+jwt", "application/at+jwt"):
        assert outcome(by_key(OCT), sign(OCT, "HS256", typ=typ)) == "alice"
    for typ in ("secevent+jwt", "logout+jwt", "dpop+jwt", "JOSE", 1, None):
        assert outcome(by_key(OCT), sign(OCT, "HS256", typ=typ)) == "invalid_token"
    strict = by_key(OCT, type="at+jwt")
    assert outcome(strict, sign(OCT, "HS256", typ="application/AT+JWT")) == "alice"
    for header in ({}, {"typ": "JWT"}):
        assert outcome(strict, sign(OCT, "HS256", **header)) == "invalid_token"


def test_3_12_use_mutually_exclusive_validation_rules_for_different_kinds_of_jwts(by_key):
    """An issuer's other tokens fit no rule of ours: their type, audience, issuer or key differs."""
    ours = {**CLAIMS, "iss": "https://i.example", "aud": "llm"}
    verifier = by_issuer(jwks(EC), issuer="https://i.example", audience="llm", type="at+jwt")
    assert outcome(verifier, sign(EC, "ES256", ours, kid="ec", typ="at+jwt")) == "alice"
    identity = sign(EC, "ES256", {**ours, "aud": "web-client"}, kid="ec", typ="JWT")
    logout = sign(EC, "ES256", {**ours, "events": {}}, kid="ec", typ="logout+jwt")
    for_another = sign(EC, "ES256", {**ours, "aud": "mail"}, kid="ec", typ="at+jwt")
    for token in (identity, logout, for_another):
        assert outcome(verifier, token) == "invalid_token"
    with pytest.raises(ValueError, match="no key that could"):
        published_keys(jwks(EC, use="enc"), ())
    with pytest.raises(ValueError, match="no key that could"):
        published_keys(jwks(EC, key_ops=["sign"]), ())
