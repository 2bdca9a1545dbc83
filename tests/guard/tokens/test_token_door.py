"""Tokens at a running guard, with a real issuer on loopback."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from tests.guard.test_pipeline import body, header, status

from corral.errors import PolicyError
from corral.policy.model import Jwt, LimitRule, Plan, Policy, Quota
from signed_tokens import EC, ED, OCT, SECRET, Issuer, jwks, sign, start_issuer

BY_SECRET = Policy(auth="keys", limits=(), jwt=Jwt(secret=SECRET))


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    publishing = Issuer(jwks(EC))
    server = start_issuer(publishing)
    yield publishing
    server.shutdown()
    server.server_close()


def by_issuer(issuer: Issuer) -> Policy:
    jwt = Jwt(jwks_url=issuer.url, issuer="https://i.example", audience="llm", jwks_refresh=1.0)
    return replace(BY_SECRET, jwt=jwt, max_failed_logins=Quota(10**6, 60.0))


def claims(**more: object) -> dict[str, object]:
    return {"sub": "alice", "exp": int(time.time()) + 600, "iss": "https://i.example", "aud": "llm", **more}


def bearer(token: bytes) -> str:
    return f"Authorization: Bearer {token.decode()}\r\n"


def until(wanted: int, ask: Callable[[], bytes]) -> bytes:
    """Ask until the answer's status is `wanted`: what happens in the background takes a moment."""
    end = time.monotonic() + 20
    while True:
        answer = ask()
        if status(answer) == wanted:
            return answer
        assert time.monotonic() < end, answer


def test_a_token_lets_its_user_in_by_each_header(start_guard):
    guard = start_guard(policy=BY_SECRET)
    token = sign(OCT, "HS256", {"sub": "alice", "exp": int(time.time()) + 60})
    assert status(guard.exchange(headers=bearer(token))) == 200
    assert status(guard.exchange(headers=f"X-Api-Key: {token.decode()}\r\n")) == 200
    refused = guard.exchange(headers=bearer(token[:-2]))
    assert (status(refused), body(refused)["error"]["code"]) == (401, "invalid_token")
    assert 'error="invalid_token"' in (header(refused, "WWW-Authenticate") or "")
    late = guard.exchange(headers=bearer(sign(OCT, "HS256", {"sub": "alice", "exp": 1})))
    assert (status(late), body(late)["error"]["code"]) == (401, "expired_token")
    assert status(guard.exchange(headers="Authorization: Bearer no-token\r\n")) == 401
    records = guard.settled(5)
    assert [record.client for record in records] == ["jwt:alice", "jwt:alice", "", "", ""]
    assert token.decode() not in str(records)


def test_a_token_names_its_plan(start_guard):
    plans = {"pro": Plan(limits=(LimitRule(name="pro", quota=Quota(7, 60.0)),))}
    guard = start_guard(policy=replace(BY_SECRET, jwt=Jwt(secret=SECRET, plan_claim="plan"), plan=plans))
    end = int(time.time()) + 60
    pro = guard.exchange(headers=bearer(sign(OCT, "HS256", {"sub": "a", "exp": end, "plan": "pro"})))
    assert header(pro, "X-RateLimit-Limit") == "7"
    gold = guard.exchange(headers=bearer(sign(OCT, "HS256", {"sub": "a", "exp": end, "plan": "gold"})))
    assert status(gold) == 403
    assert '"gold"' in body(gold)["error"]["message"]


def test_forging_tokens_is_limited_and_locks_out_nobody_who_was_let_in(start_guard):
    guard = start_guard(policy=BY_SECRET)
    end = int(time.time()) + 60
    assert status(guard.exchange(headers=bearer(sign(OCT, "HS256", {"sub": "alice", "exp": end})))) == 200
    forged = sign(OCT, "HS256", {"sub": "eve", "exp": end})[:-3] + b"abc"
    assert [status(guard.exchange(headers=bearer(forged))) for _ in range(12)] == [401] * 10 + [429] * 2
    renewed = sign(OCT, "HS256", {"sub": "alice", "exp": end + 1})
    assert status(guard.exchange(headers=bearer(renewed))) == 200


def test_an_issuers_keys_come_and_go(start_guard, issuer):
    guard = start_guard(policy=by_issuer(issuer))
    old, new = sign(EC, "ES256", claims(), kid="ec"), sign(ED, "EdDSA", claims(), kid="ed")
    until(200, lambda: guard.exchange(headers=bearer(old)))
    assert status(guard.exchange(headers=bearer(new))) == 401
    issuer.body = jwks(ED)
    until(200, lambda: guard.exchange(headers=bearer(new)))
    assert status(guard.exchange(headers=bearer(old))) == 401


@pytest.mark.parametrize("trouble", [{"status": 500}, {"body": b"<html>"}, {"body": b" " * 300_000}, {"body": jwks(OCT)},
                                     {"status": 302, "location": "http://127.0.0.1:1/"}])  # fmt: skip
def test_an_issuer_in_trouble_changes_nothing(start_guard, issuer, trouble):
    guard = start_guard(policy=by_issuer(issuer))
    token = sign(EC, "ES256", claims(), kid="ec")
    until(200, lambda: guard.exchange(headers=bearer(token)))
    for name, value in trouble.items():
        setattr(issuer, name, value)
    issuer.wait_for(issuer.asked + 2)
    assert status(guard.exchange(headers=bearer(token))) == 200
    fresh = sign(EC, "ES256", claims(jti="2"), kid="ec")
    assert status(guard.exchange(headers=bearer(fresh))) == 200


def test_before_the_keys_are_there_clients_are_asked_to_come_back(start_guard, issuer):
    issuer.status = 503
    guard = start_guard(policy=by_issuer(issuer))
    token = sign(EC, "ES256", claims(), kid="ec")
    refused = guard.exchange(headers=bearer(token))
    assert (status(refused), body(refused)["error"]["code"]) == (503, "keys_unavailable")
    assert int(header(refused, "Retry-After") or 0) >= 1
    issuer.status = 200
    until(200, lambda: guard.exchange(headers=bearer(token)))


def test_tokens_that_name_unknown_keys_do_not_make_the_guard_fetch(start_guard, issuer):
    guard = start_guard(policy=replace(by_issuer(issuer), jwt=replace(by_issuer(issuer).jwt, jwks_refresh=900.0)))
    until(200, lambda: guard.exchange(headers=bearer(sign(EC, "ES256", claims(), kid="ec"))))
    for number in range(50):
        assert status(guard.exchange(headers=bearer(sign(EC, "ES256", claims(), kid=f"k{number}")))) == 401
    assert issuer.asked == 1


def test_a_key_that_cannot_be_used_ends_the_start(start_guard):
    with pytest.raises(PolicyError, match="can be guessed"):
        start_guard(policy=replace(BY_SECRET, jwt=Jwt(secret="hunter2")))
    with pytest.raises(PolicyError, match="cannot be read"):
        start_guard(policy=replace(BY_SECRET, jwt=Jwt(public_key="/nowhere/key.pem")))


def test_a_session_ends_with_its_token(start_guard):
    guard = start_guard(policy=replace(BY_SECRET, jwt=Jwt(secret=SECRET, leeway=0.0)))
    token = sign(OCT, "HS256", {"sub": "alice", "exp": time.time() + 1.0})
    request = f"GET /v1/models HTTP/1.1\r\nHost: x\r\n{bearer(token)}\r\n".encode()
    with guard.connect() as connection:

        def ask() -> bytes:
            connection.sendall(request)
            return connection.recv(65536)

        assert status(ask()) == 200
        assert b"expired_token" in until(401, ask)


def test_without_the_library_the_start_says_what_to_install(start_guard, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("corral.guard.tokens")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "joserfc", None)
    with pytest.raises(PolicyError, match=r"joserfc, which is not installed: pip install 'corral\[jwt\]'"):
        start_guard(policy=BY_SECRET)
