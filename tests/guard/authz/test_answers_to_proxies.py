"""What a guard tells each proxy: the gateway's own decision by the head, with what the proxy may copy on."""

import json
import re
import ssl
from dataclasses import replace

import pytest
import trustme

from asking_proxy import CLIENT, PROXIES, ask, question, read_answer
from corral.dialects import dialect
from corral.engine.decision import NOTHING
from corral.guard.authz.answers import admitted, for_nginx
from corral.guard.caller import Caller, Visit
from corral.guard.credentials import Credential
from corral.guard.quota_headers import QuotaHeaders
from corral.guard.refusal import Answer
from corral.policy.authz import for_authz
from corral.policy.model import ApiKey, Identity, LimitRule, Listen, Plan, Policy, Quota, Routes
from running_guard import api_key, read_all

KEY = "Authorization: Bearer alices-key\r\n"
ADMIN = "X-Api-Key: admins-key\r\n"
ALICE = replace(api_key("alice", "alices-key"), plan="pro")
POLICY = Policy(
    auth="keys",
    keys=(ALICE, api_key("root", "admins-key", admin=True)),
    plan={"pro": Plan(limits=(LimitRule(name="pro", quota=Quota(2, 60.0)),))},
)


@pytest.fixture
def start(start_guard):
    """Start a guard that answers proxies."""
    return lambda policy=POLICY: start_guard(policy=for_authz(policy), authz=True)


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_request_that_may_go_on_is_named(start, proxy):
    answer = ask(start(), proxy, headers=KEY)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.fields["x-corral-client"] == "alice"
    assert answer.fields["x-corral-plan"] == "pro"
    assert answer.fields["x-request-id"]
    assert answer.fields["ratelimit"] == '"pro";r=1;t=30'
    assert answer.fields["ratelimit-policy"] == '"pro";q=2;w=60'
    assert answer.fields["x-ratelimit-limit"] == "2"
    assert answer.fields["x-ratelimit-remaining-requests"] == "1"
    assert answer.fields["cache-control"] == "no-store"
    assert answer.fields["content-length"] == "0"
    removed = answer.fields.get("x-envoy-auth-headers-to-remove")
    assert removed == ("authorization, x-api-key" if proxy == "envoy" else None)


REFUSED = {
    # what is asked about: the status, the code, and the client's headers
    ("POST", "/v1/chat/completions"): (401, "missing_api_key", ""),
    ("POST", "/v1/completions"): (401, "invalid_api_key", "Authorization: Bearer wrong\r\n"),
    ("POST", "/slots/1?action=erase"): (404, "not_found", KEY),
    ("GET", "/slots"): (403, "forbidden", KEY),
    ("POST", "/props"): (403, "forbidden", KEY),
    ("POST", "/nowhere"): (404, "not_found", KEY),
    ("PUT", "/v1/chat/completions"): (405, "method_not_allowed", KEY),
    ("OPTIONS", "/v1/chat/completions"): (405, "method_not_allowed", KEY),
    ("POST", "/v1/chat/completions?key=alices-key"): (400, "key_in_url", ""),
}


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("asked", REFUSED, ids=" ".join)
def test_what_the_gateway_refuses_by_the_head_may_not_go_on(start_guard, start, proxy, asked):
    method, uri = asked
    status, code, headers = REFUSED[asked]
    answer = ask(start(), proxy, method, uri, headers=headers)
    told = answer.fields.get("x-corral-status", str(answer.status))
    gateway = start_guard(policy=POLICY).send(
        f"{method} {uri} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: 0\r\n\r\n".encode()
    )
    own = read_answer(gateway)
    assert int(told) == status == own.status
    assert answer.body == own.body
    assert code.encode() in answer.body or status == 403
    assert answer.fields.get("www-authenticate") == own.fields.get("www-authenticate")
    assert answer.fields.get("allow") == own.fields.get("allow")
    if proxy == "nginx":
        assert answer.status == (401 if status == 401 else 403)
        assert answer.fields["x-corral-body"].encode() == own.body
    else:
        assert answer.status == status
        assert "x-corral-body" not in answer.fields


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_quota_that_is_used_up_says_when_to_come_back(start, proxy):
    guard = start()
    assert [ask(guard, proxy, headers=KEY).status for _ in range(2)] == [200, 200]
    answer = ask(guard, proxy, headers=KEY)
    assert int(answer.fields.get("x-corral-status", answer.status)) == 429
    assert 0 < int(answer.fields["retry-after"]) <= 30
    assert answer.fields["ratelimit"].startswith('"pro";r=0;t=')
    assert answer.error["code"] == "rate_limit_exceeded"
    assert (
        guard.settled(3)[2]._asdict() | {"status": 429, "client": "alice", "limit": "pro"} == guard.records[2]._asdict()
    )


def test_refusals_are_in_the_dialect_of_their_route(start):
    guard = start()
    for _ in range(2):
        ask(guard, "nginx", "POST", "/v1/messages", headers=KEY)
    answer = ask(guard, "nginx", "POST", "/v1/messages", headers=KEY)
    assert json.loads(answer.fields["x-corral-body"])["type"] == "error"
    assert answer.fields["anthropic-ratelimit-requests-remaining"] == "0"


def test_admin_keys_open_what_they_open_in_the_gateway(start):
    guard = start(replace(POLICY, routes=Routes(management="admin")))
    assert ask(guard, "caddy", "GET", "/slots", headers=ADMIN).status == 200
    assert ask(guard, "caddy", "POST", "/props", headers=ADMIN).status == 200
    assert ask(guard, "caddy", "POST", "/props", headers=KEY).status == 403


def test_without_keys_addresses_are_limited(start):
    policy = Policy(auth="none", limits=(LimitRule(name="address", quota=Quota(2, 60.0), per="address"),))
    guard = start(policy)
    assert [ask(guard, "traefik").status for _ in range(3)] == [200, 200, 429]
    other = ask(guard, "traefik", address="2001:db8::1")
    assert other.status == 200
    assert other.fields["x-corral-client"] == "2001:db8::/64"
    assert other.fields["x-corral-plan"] == ""


def test_a_web_page_sends_json_or_nothing(start):
    guard = start(Policy(auth="none"))
    page = "Origin: http://evil.example\r\nContent-Type: text/plain\r\n"
    assert ask(guard, "caddy", headers=page).status == 415
    assert ask(guard, "caddy", headers=page.replace("text/plain", "application/json")).status == 200
    assert ask(guard, "caddy", "GET", "/v1/models", headers=page).status == 200


def test_decisions_are_logged_as_what_they_are_about(start):
    guard = start()
    for proxy in PROXIES:
        ask(guard, proxy, "POST", "/completion", headers=ADMIN, address="198.51.100.7")
    ask(guard, "nginx", "DELETE", "/v1/models", headers=ADMIN)
    for record in guard.settled(5)[:4]:
        assert (record.method, record.route, record.status, record.ending) == ("POST", "completion", 200, "answered")
        assert (record.client, record.address) == ("root", "198.51.100.7")
    assert (guard.records[4].method, guard.records[4].status, guard.records[4].address) == ("DELETE", 405, CLIENT)


def test_connections_are_kept_and_questions_may_be_sent_ahead(start):
    guard = start()
    with guard.connect() as connection:
        for _ in range(2):
            connection.sendall(question("nginx", headers=KEY))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        ahead = [question("nginx", headers=KEY), question("caddy"), question("envoy", "GET", "/health")]
        connection.sendall(b"".join(ahead))
        data = b""
        while data.count(b"HTTP/1.1 ") < 3 or not data.endswith(b"\r\n\r\n"):
            data += connection.recv(65536)
    assert re.findall(rb"HTTP/1.1 (\d+)", data) == [b"403", b"401", b"200"]
    assert b"X-Corral-Status: 429" in data


def test_every_client_of_a_kept_connection_is_itself(start):
    bob = ApiKey(name="bob", sha256=api_key("bob", "bobs-key").sha256)
    guard = start(Policy(auth="keys", keys=(replace(ALICE, plan=None), bob)))
    with guard.connect() as connection:
        named = []
        for key in ("alices-key", "bobs-key", "alices-key", "nobodys-key", "bobs-key"):
            connection.sendall(question("envoy", headers=f"Authorization: Bearer {key}\r\n"))
            named.append(read_answer(connection.recv(65536)).fields.get("x-corral-client"))
    assert named == ["alice", "bob", "alice", None, "bob"]


def test_an_answer_to_head_has_no_body(start):
    guard = start()
    for proxy in PROXIES:
        assert ask(guard, proxy, "HEAD", "/health").status == 200
    assert ask(guard, "envoy", "HEAD", "/v1/models").body == b""
    raw = question("nginx").replace(b"GET ", b"HEAD ", 1).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    answer = read_answer(guard.send(raw))
    assert (answer.status, answer.body) == (401, b"")


def test_everything_that_a_dialect_serves_may_be_asked_about(start):
    guard = start(replace(POLICY, plan={"pro": Plan()}, limits=(), routes=Routes(management="admin")))
    for method, path, route in dialect("llamacpp").routes():
        answer = ask(guard, "traefik", method.decode(), path.decode(), headers=ADMIN)
        assert (answer.status, guard.records[-1].route) == (200, route.name), path


def test_who_is_admitted_stands_in_a_header_whatever_it_is_called(start):
    user = "jwt:Zoë 100% \u2028\r\nX-Evil: 1"
    (_, _, route) = dialect("llamacpp").routes()[0]
    pipeline = start().guard._core.pipeline
    visit = Visit(pipeline, route, Caller("a", Credential(user, user, None, False, None), ()), NOTHING, None)
    head = admitted(visit, QuotaHeaders(()), b"Date: now\r\n", "id", b"/authz/caddy")
    assert b"X-Corral-Client: jwt:Zo%C3%AB%20100%25%20%E2%80%A8%0D%0AX-Evil:%201\r\n" in head


def test_a_body_that_no_header_could_hold_is_escaped():

    answer = Answer(429, b"", b'A: b\r\n\r\n{"error":"caf\xc3\xa9 \x7f"}')
    assert b'X-Corral-Body: {"error":"caf\\u00e9 \\u007f"}\r\n' in for_nginx(answer, b"", "id", body=True)


def test_the_proxies_that_a_policy_names_are_those_that_are_answered(start):
    guard = start(replace(POLICY, identity=Identity(trusted_proxies=("10.0.0.0/8",))))
    for proxy in PROXIES:
        answer = ask(guard, proxy, headers=KEY)
        assert answer.status == 403
        assert "trusted_proxies" in answer.error["message"]
    assert {record.client for record in guard.settled(4)} == {""}
    assert {record.address for record in guard.records} == {"127.0.0.1"}


def test_questions_are_answered_by_tls_and_in_plain_text_never(start_guard, tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    listen = Listen(address="127.0.0.1:0", tls_certificate=certificate, tls_key=key)
    guard = start_guard(policy=for_authz(replace(POLICY, listen=listen)), authz=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with context.wrap_socket(guard.connect(), server_hostname="127.0.0.1") as secured:
        secured.sendall(question("caddy", headers=KEY))
        assert secured.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    assert guard.send(question("caddy", headers=KEY)) == b""


def test_a_guard_that_ends_answers_what_was_asked_and_closes(start):
    guard = start()
    with guard.connect() as resting, guard.connect() as asking:
        resting.sendall(question("nginx", headers=KEY))
        assert resting.recv(65536).startswith(b"HTTP/1.1 200 ")
        asking.sendall(question("nginx", headers=KEY)[:-2])
        while guard.guard.connections < 2:
            pass
        guard.call(guard.guard.stop(1))
        assert read_all(resting) == b""
    with pytest.raises(ConnectionRefusedError):
        guard.connect()
