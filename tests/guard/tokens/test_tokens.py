"""What is remembered of tokens, and for how long."""

from corral.guard.credentials import Credential, Rejection
from corral.guard.tokens.issuer_keys import IssuerKeys
from corral.guard.tokens.keys import policy_key, published_keys
from corral.guard.tokens.tokens import Tokens
from corral.guard.tokens.verifier import PolicyKey
from corral.policy.model import Jwt
from signed_tokens import CLAIMS, EC, ED, NOW, OCT, SECRET, jwks, sign

JWT = Jwt(secret=SECRET, leeway=0.0)


def tokens(capacity: int = 10) -> Tokens:
    return Tokens(JWT, PolicyKey(policy_key(JWT)), capacity=capacity)


def test_a_good_token_is_remembered_until_it_ends():
    judge, token = tokens(), sign(OCT, "HS256")
    assert judge.recall(token, NOW) is None
    verified = judge.verify(token, NOW)
    assert judge.recall(token, NOW) is verified
    assert isinstance(verified, Credential)
    assert judge.recall(token, NOW + 59.9) is verified
    assert judge.recall(token, NOW + 60.0) is None
    assert judge.recall(token + b"x", NOW) is None


def test_a_bad_token_is_not_remembered_and_the_number_is_bounded():
    judge = tokens(capacity=3)
    for number in range(10):
        token = sign(OCT, "HS256", {**CLAIMS, "sub": f"u{number}"})
        assert isinstance(judge.verify(token, NOW), Credential)
        assert isinstance(judge.verify(token + b"x", NOW), Rejection)
        assert judge.recall(token, NOW) is not None
    assert len(judge) == 3


def test_what_an_issuer_no_longer_publishes_vouches_for_nobody():
    jwt = Jwt(jwks_url="https://i.example")
    keys = IssuerKeys(900.0)
    keys.fetched(published_keys(jwks(EC, ED), ()), b"1", 0.0)
    judge = Tokens(jwt, keys)
    token = sign(EC, "ES256", kid="ec")
    judge.tick(0.0)
    judge.verify(token, NOW)
    judge.tick(1.0)
    assert judge.recall(token, NOW) is not None
    before = judge.generation
    keys.fetched(published_keys(jwks(ED), ()), b"2", 2.0)
    judge.tick(2.0)
    assert judge.generation != before
    assert judge.recall(token, NOW) is None
    assert isinstance(judge.verify(token, NOW), Rejection)


def test_a_token_that_is_too_long_is_refused_unread():
    judge = Tokens(Jwt(secret=SECRET, max_length=200), PolicyKey(policy_key(JWT)))
    outcome = judge.verify(b"." * 201, NOW)
    assert isinstance(outcome, Rejection)
    assert "longer than 200" in outcome.message
    assert judge.claimed_name(b"." * 201) is None


def test_whom_a_token_claims_to_be_of_is_believed_for_nothing():
    judge = tokens()
    assert judge.claimed_name(sign(OCT, "HS256") + b"forged") == "jwt:alice"
    for nonsense in (b"", b"..", b"a.b.c", b"a.b", b"...."):
        assert judge.claimed_name(nonsense) is None
