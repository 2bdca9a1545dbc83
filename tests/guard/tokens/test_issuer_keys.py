"""When an issuer's keys are fetched, by a clock that the test moves."""

from corral.guard.credentials import Rejection
from corral.guard.tokens.issuer_keys import COOLDOWN, IssuerKeys
from corral.guard.tokens.keys import VerifyKey, published_keys
from signed_tokens import EC, ED, RSA, jwks


def fetched(keys: IssuerKeys, data: bytes, now: float) -> None:
    keys.began()
    keys.fetched(published_keys(data, ()), data, now)


def kind(outcome: VerifyKey | Rejection) -> str:
    return outcome.kid if isinstance(outcome, VerifyKey) else outcome.kind


def test_keys_are_fetched_at_once_and_then_as_often_as_the_policy_says():
    keys = IssuerKeys(900.0)
    assert keys.is_due(5.0)
    keys.began()
    assert not keys.is_due(5.0), "one fetch at a time"
    fetched(keys, jwks(EC), 6.0)
    assert [keys.is_due(now) for now in (6.0, 905.9, 906.0)] == [False, False, True]


def test_an_unknown_key_is_asked_for_once_in_a_cooldown_however_many_tokens_name_one():
    keys = IssuerKeys(900.0)
    fetched(keys, jwks(EC), 0.0)
    for number in range(1000):
        assert kind(keys.choose(f"unknown-{number}", "ES256")) == "invalid_token"
    assert [keys.is_due(now) for now in (1.0, COOLDOWN - 0.1, COOLDOWN)] == [False, False, True]
    fetched(keys, jwks(EC), COOLDOWN)
    assert not keys.is_due(2 * COOLDOWN), "nobody has asked since"
    keys.choose("unknown", "ES256")
    assert keys.is_due(2 * COOLDOWN)


def test_a_known_key_or_a_wrong_algorithm_asks_for_nothing():
    keys = IssuerKeys(900.0, ("ES256", "RS256"))
    fetched(keys, jwks(EC, RSA), 0.0)
    assert kind(keys.choose("ec", "ES256")) == "ec"
    for kid, algorithm in (("ec", "RS256"), ("x", "HS256"), ("x", "none"), ("x", "PS256")):
        assert kind(keys.choose(kid, algorithm)) == "invalid_token"
    assert not keys.is_due(100.0)


def test_a_token_without_a_kid_is_checked_where_only_one_key_can_be_meant():
    keys = IssuerKeys(900.0)
    fetched(keys, jwks(EC, RSA), 0.0)
    assert kind(keys.choose(None, "ES256")) == "ec"
    fetched(keys, jwks(EC, EC), 1.0)
    assert kind(keys.choose(None, "ES256")) == "invalid_token"


def test_an_outage_leaves_the_keys_and_is_waited_out_longer_each_time():
    keys = IssuerKeys(900.0)
    assert kind(keys.choose("ec", "ES256")) == "keys_unavailable"
    now, waits = 0.0, []
    for _ in range(8):
        assert keys.is_due(now)
        keys.began()
        keys.failed(now)
        began = now
        while not keys.is_due(now):
            now += 1.0
        waits.append(now - began)
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    fetched(keys, jwks(EC), now)
    generation = keys.generation
    keys.began()
    keys.failed(now + 900.0)
    assert kind(keys.choose("ec", "ES256")) == "ec"
    assert keys.generation == generation


def test_the_generation_changes_with_the_set_alone():
    keys = IssuerKeys(900.0)
    fetched(keys, jwks(EC), 0.0)
    before = keys.generation
    fetched(keys, jwks(EC), 900.0)
    assert keys.generation == before
    fetched(keys, jwks(ED), 1800.0)
    assert keys.generation == before + 1
    assert kind(keys.choose("ec", "ES256")) == "invalid_token"
