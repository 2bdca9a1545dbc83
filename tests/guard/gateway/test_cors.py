"""Pages of other origins: only those that the policy lists, told so by the guard alone."""

import re
from dataclasses import replace

import pytest

from corral.errors import PolicyError
from corral.policy.load import load_policy
from corral.policy.model import Cors, LimitRule, Policy, Quota
from running_guard import answer, api_key, post

APP = "https://app.example"
CORS = Cors(origins=(APP, "http://localhost:3000"))
KEYS = Policy(auth="keys", keys=(api_key("alice", "secret"),), cors=CORS)
BODY = {"messages": [{"role": "user", "content": "hi"}]}


def fields(said: bytes, name: str) -> list[str]:
    head = said.partition(b"\r\n\r\n")[0].decode()
    return re.findall(rf"(?im)^{name}: (.*?)\r?$", head)


def preflight(origin: str = APP, more: str = "Connection: close\r\n") -> bytes:
    return (
        f"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: {origin}\r\n"
        f"Access-Control-Request-Method: POST\r\n{more}\r\n"
    ).encode()


def test_a_preflight_is_answered_without_a_key_and_never_relayed(start_guard):
    guard = start_guard(policy=KEYS)
    more = "Access-Control-Request-Headers: authorization, x-stainless-os\r\nConnection: close\r\n"
    said = guard.send(preflight(more=more))
    assert said.startswith(b"HTTP/1.1 204 ")
    assert fields(said, "Access-Control-Allow-Origin") == [APP]
    assert fields(said, "Access-Control-Allow-Headers") == ["authorization, x-stainless-os"]
    assert fields(said, "Access-Control-Allow-Methods") == ["GET, POST"]
    assert fields(said, "Access-Control-Max-Age") == ["600"]
    assert fields(said, "Vary") == ["Origin"]
    assert fields(said, "Access-Control-Allow-Credentials") == []
    assert guard.server.seen == []
    assert guard.records == []


def test_preflights_cost_no_quota_and_are_no_failed_logins(start_guard):
    limits = (LimitRule(name="client", quota=Quota(1, 3600.0)),)
    guard = start_guard(policy=replace(KEYS, limits=limits, max_failed_logins=Quota(2, 3600.0)))
    for _ in range(5):
        assert guard.send(preflight()).startswith(b"HTTP/1.1 204 ")
        assert guard.send(preflight("https://evil.example")).startswith(b"HTTP/1.1 403 ")
    assert guard.exchange(headers="X-Api-Key: secret\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("policy", "origin"),
    [
        (KEYS, "https://evil.example"),
        (KEYS, "null"),
        (KEYS, "https://app.example.evil"),
        (Policy(auth="none"), APP),
    ],
)
def test_other_pages_are_refused_in_clear_words(start_guard, policy, origin):
    guard = start_guard(policy=policy)
    said = guard.send(preflight(origin))
    assert said.startswith(b"HTTP/1.1 403 ")
    assert b"cors.origins" in said
    assert fields(said, "Access-Control-Allow-Origin") == []
    assert guard.server.seen == []
    assert guard.settled(1)[0].route == "preflight"


def test_a_preflight_with_a_body_is_refused(start_guard):
    guard = start_guard(policy=KEYS)
    said = guard.send(preflight(more="Content-Length: 2\r\nConnection: close\r\n") + b"hi")
    assert said.startswith(b"HTTP/1.1 400 ")


def test_a_connection_is_kept_behind_a_preflight(start_guard):
    guard = start_guard(policy=KEYS)
    request = post(BODY, headers=f"X-Api-Key: secret\r\nOrigin: {APP}\r\nConnection: close\r\n")
    said = guard.send(preflight(more="") + preflight(more="") + request)
    assert said.count(b"HTTP/1.1 204 ") == 2
    assert said.count(b"HTTP/1.1 200 ") == 1


def test_answers_and_refusals_tell_a_listed_page_that_it_may_read_them(start_guard):
    async def servers_own(seen, writer):
        own = b"\r\nAccess-Control-Allow-Origin: *\r\nVary: Cookie\r\n"
        writer.write(answer({}).replace(b"\r\n", own, 1))

    guard = start_guard(servers_own, KEYS)
    for key, status in (("secret", b"200"), ("wrong", b"401")):
        said = guard.exchange(headers=f"X-Api-Key: {key}\r\nOrigin: {APP}\r\n")
        assert said.startswith(b"HTTP/1.1 " + status)
        assert fields(said, "Access-Control-Allow-Origin") == [APP]
        assert fields(said, "Vary") == ["Origin"]
        (exposed,) = fields(said, "Access-Control-Expose-Headers")
        assert {"Retry-After", "RateLimit", "x-ratelimit-remaining-requests"} <= set(exposed.split(", "))
    said = guard.exchange(headers="X-Api-Key: secret\r\nOrigin: https://evil.example\r\n")
    assert fields(said, "Access-Control-Allow-Origin") == []
    assert fields(said, "Vary") == ["Origin"]


def test_every_page_may_where_keys_are_demanded_and_any_origin_is_listed(start_guard):
    guard = start_guard(policy=replace(KEYS, cors=Cors(origins=("*",))))
    assert fields(guard.send(preflight("https://any.example")), "Access-Control-Allow-Origin") == ["*"]
    said = guard.exchange(headers="X-Api-Key: secret\r\nOrigin: https://any.example\r\n")
    assert fields(said, "Access-Control-Allow-Origin") == ["*"]


def test_credentials_are_allowed_where_the_policy_says_so(start_guard):
    guard = start_guard(policy=replace(KEYS, cors=replace(CORS, credentials=True)))
    assert fields(guard.send(preflight()), "Access-Control-Allow-Credentials") == ["true"]


def test_nothing_is_said_of_origins_where_there_are_none(start_guard):
    said = start_guard(policy=Policy(auth="none")).exchange(headers=f"Origin: {APP}\r\n")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"Access-Control" not in said
    assert b"Vary" not in said


def test_a_listed_page_may_use_a_guard_without_keys_and_no_other_name_may(start_guard):
    guard = start_guard(policy=Policy(auth="none", cors=CORS))
    assert guard.send(preflight()).startswith(b"HTTP/1.1 204 ")
    assert guard.exchange(headers=f"Origin: {APP}\r\n").startswith(b"HTTP/1.1 200 ")
    request = post(BODY, headers=f"Origin: {APP}\r\nConnection: close\r\n")
    said = guard.send(request.replace(b"Host: 127.0.0.1", b"Host: evil.example"))
    assert said.startswith(b"HTTP/1.1 403 ")


LOCAL = ["127.0.0.1", "127.0.0.1:8080", "localhost:80", "LOCALHOST", "[::1]:8080", "[::1]"]
OTHERS = [
    "127.0.0.1:80@elsewhere", "127.0.0.1:80:80", "127.0.0.1:", "[::1]evil.example", "[evil.example]",
    "127.0.0.1/evil.example", "localhost.evil.example", "1.2.3.4.5", "127.0.0.1:123456", "user@127.0.0.1",
]  # fmt: skip


def test_a_guard_without_keys_hears_only_well_formed_hosts_that_are_local(start_guard):
    guard = start_guard(policy=Policy(auth="none", limits=()))
    for host in LOCAL + OTHERS:
        request = post(BODY, headers="Connection: close\r\n").replace(b"Host: 127.0.0.1", b"Host: " + host.encode())
        assert (host, guard.send(request)[9:12]) == (host, b"200" if host in LOCAL else b"403")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('origins = ["*"]', "only for guards that ask for keys"),
        ('origins = ["*", "https://a.example"]', "every origin"),
        ('origins = ["https://a.example/"]', "no origin"),
        ('origins = ["a.example"]', "no origin"),
        ('origins = ["null"]', "no origin"),
        ('origins = ["https://A.example"]', "no origin"),
        ('origins = ["https://a.example:443"]', 'write "https://a.example"'),
        ("credentials = true", "without cors.origins"),
    ],
)
def test_what_cannot_apply_is_an_error(text, message):
    with pytest.raises(PolicyError, match=re.escape(message)):
        load_policy(text=f"[cors]\n{text}")


def test_any_origin_with_credentials_is_an_error():
    with pytest.raises(PolicyError, match="credentials"):
        load_policy(text='auth = "keys"\n[cors]\norigins = ["*"]\ncredentials = true')


def test_what_the_settings_say_is_read():
    cors = load_policy(text='[cors]\norigins = ["https://a.example", "http://[::1]:3000"]\nmax_age = "1h"').cors
    assert cors == Cors(origins=("https://a.example", "http://[::1]:3000"), max_age=3600.0)


def test_other_pages_are_let_in_from_a_reload_on(start_guard):
    guard = start_guard(policy=KEYS)
    policy = guard.guard.policy
    guard.call(guard.guard.reload(replace(policy, cors=Cors(origins=("https://other.example",)))))
    assert guard.send(preflight()).startswith(b"HTTP/1.1 403 ")
    assert guard.send(preflight("https://other.example")).startswith(b"HTTP/1.1 204 ")
    said = guard.exchange(BODY, headers=f"Origin: {APP}\r\nAuthorization: Bearer secret\r\n")
    assert fields(said, "Access-Control-Allow-Origin") == []
    guard.call(guard.guard.reload(replace(policy, cors=Cors())))
    said = guard.exchange(BODY, headers="Origin: https://other.example\r\nAuthorization: Bearer secret\r\n")
    assert fields(said, "Access-Control-Allow-Origin") == []
