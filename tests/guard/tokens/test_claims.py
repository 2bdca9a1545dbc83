"""When a token is valid, and whom it lets in."""

import pytest

from corral.guard.credentials import Credential, Rejection
from corral.guard.tokens.claims import read_claims
from corral.policy.model import Jwt

NOW = 1_800_000_000.0
JWT = Jwt(leeway=10.0)


def said(claims: dict, jwt: Jwt = JWT, now: float = NOW) -> str:
    judged = read_claims({"sub": "alice", "exp": NOW, **claims}, jwt, now)
    return "in" if isinstance(judged, Credential) else judged.kind


def test_a_token_ends_when_it_says_and_the_leeway_is_over():
    assert [said({}, now=NOW + late) for late in (0.0, 9.99, 10.0)] == ["in", "in", "expired_token"]
    judged = read_claims({"sub": "alice", "exp": NOW}, JWT, NOW)
    assert judged == Credential("jwt:alice", "alice", None, False, NOW + 10.0)


@pytest.mark.parametrize("end", [None, "1800000000", True, -1, 2**53, float("nan"), float("inf"), [NOW], {}])
def test_a_token_without_an_end_is_none(end):
    assert said({"exp": end}) == "invalid_token"


def test_a_token_must_say_its_end():
    judged = read_claims({"sub": "alice"}, JWT, NOW)
    assert isinstance(judged, Rejection)
    assert '"exp"' in judged.message


@pytest.mark.parametrize(
    ("begins", "expected"),
    [(NOW + 10, "in"), (NOW + 11, "invalid_token"), ("soon", "invalid_token"), (None, "invalid_token")],
)
def test_a_token_may_begin_later(begins, expected):
    assert said({"nbf": begins}) == expected


def test_who_and_which_plan_stand_in_the_claims_that_the_policy_names():
    jwt = Jwt(user_claim="email", plan_claim="tier")
    judged = read_claims({"exp": NOW, "email": "a@b.example", "tier": "pro", "admin": True}, jwt, NOW)
    assert judged == Credential("jwt:a@b.example", "a@b.example", "pro", False, NOW + 30.0)
    assert said({"email": "x", "tier": None}, jwt) == "in"
    for plan in (7, "", ["pro"], "p" * 65):
        assert said({"email": "x", "tier": plan}, jwt) == "forbidden"
    assert said({"tier": "pro"}, jwt) == "invalid_token"
