"""Who is let in, how often, and with what body: seen from a socket."""

import json
import re
import time
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256

import pytest

from corral.guard.key_desk import KeyDesk
from corral.guard.key_store import KeyStore
from corral.policy.model import (
    ApiKey,
    Concurrency,
    Credentials,
    Generation,
    Identity,
    LimitRule,
    Plan,
    Policy,
    Quota,
)

OPEN = Policy(auth="none")
SECRET = "a-secret-key"


def key(name: str, secret: str, *, admin: bool = False) -> ApiKey:
    return ApiKey(name=name, sha256=sha256(secret.encode()).hexdigest(), admin=admin)


KEYED = Policy(auth="keys", keys=(key("alice", SECRET), key("root", "an-admin-key", admin=True)))


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def header(answer: bytes, name: str) -> str | None:
    found = re.search(rb"(?im)^" + name.encode() + rb": (.*?)\r$", answer.partition(b"\r\n\r\n")[0] + b"\r\n")
    return found[1].decode() if found else None


def body(answer: bytes):
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def get(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}\r\n".encode()


def test_a_key_is_demanded_in_either_header(start_guard):
    guard = start_guard(policy=KEYED)
    missing = guard.exchange()
    assert status(missing) == 401
    assert body(missing)["error"]["message"].startswith("No API key was sent")
    assert header(missing, "WWW-Authenticate")
    assert status(guard.exchange(headers="Authorization: Bearer nonsense\r\n")) == 401
    assert status(guard.exchange(headers=f"Authorization: Bearer {SECRET.upper()}\r\n")) == 401
    assert status(guard.exchange(headers=f"Authorization: Basic {SECRET}\r\n")) == 401
    assert status(guard.exchange(headers=f"Authorization: Bearer {SECRET}\r\n")) == 200
    assert status(guard.exchange(headers=f"X-Api-Key: {SECRET}\r\n")) == 200
    assert [seen.head.get("authorization") for seen in guard.server.seen] == [None, None]
    assert all(SECRET not in str(record) for record in guard.settled(6))


def test_the_servers_own_key_is_sent_in_the_clients_stead(start_guard):
    policy = replace(KEYED, upstream=replace(KEYED.upstream, api_key="the-servers-key"))
    guard = start_guard(policy=policy)
    assert status(guard.exchange(headers=f"X-Api-Key: {SECRET}\r\n")) == 200
    assert guard.server.seen[0].head["authorization"] == "bearer the-servers-key"


def test_guessing_keys_is_limited_and_locks_out_nobody_who_was_let_in(start_guard):
    guard = start_guard(policy=KEYED)
    assert status(guard.exchange(headers=f"X-Api-Key: {SECRET}\r\n")) == 200
    answers = [status(guard.exchange(headers=f"X-Api-Key: guess-{number}\r\n")) for number in range(15)]
    assert answers == [401] * 10 + [429] * 5
    unheard = guard.exchange(headers="X-Api-Key: an-admin-key\r\n")
    assert status(unheard) == 429
    assert int(header(unheard, "Retry-After") or 0) >= 1
    assert status(guard.exchange(headers=f"X-Api-Key: {SECRET}\r\n")) == 200


def test_requests_without_a_key_are_limited_but_lock_no_key_out(start_guard):
    guard = start_guard(policy=KEYED)
    answers = [status(guard.exchange()) for _ in range(15)]
    assert answers == [401] * 10 + [429] * 5
    assert status(guard.exchange(headers=f"X-Api-Key: {SECRET}\r\n")) == 200


def test_the_quota_is_enforced_and_told(start_guard):
    policy = replace(OPEN, limits=(LimitRule(name="client", quota=Quota(3, 60.0)),))
    guard = start_guard(policy=policy)
    answers = [guard.exchange() for _ in range(4)]
    assert [status(answer) for answer in answers] == [200, 200, 200, 429]
    assert [header(answer, "X-RateLimit-Remaining") for answer in answers] == ["2", "1", "0", "0"]
    first, refused = answers[0], answers[-1]
    assert header(first, "RateLimit-Policy") == '"client";q=3;w=60'
    assert re.fullmatch(r'"client";r=2;t=\d+', header(first, "RateLimit") or "")
    assert header(first, "x-ratelimit-limit-requests") == "3"
    retry = int(header(refused, "Retry-After") or 0)
    assert 1 <= retry <= 20
    assert header(refused, "RateLimit") == f'"client";r=0;t={retry}'
    error = body(refused)["error"]
    assert error["code"] == "rate_limit_exceeded"
    assert "at most 3 requests in 60 seconds" in error["message"]
    assert error["violated-policies"] == ["client"]
    record = guard.settled(4)[-1]
    assert (record.refused, record.limit, record.status) == ("quota_exceeded", "client", 429)


def test_clients_are_counted_apart_by_key(start_guard):
    policy = replace(KEYED, limits=(LimitRule(name="client", quota=Quota(1, 60.0)),))
    guard = start_guard(policy=policy)
    assert status(guard.exchange(headers=f"X-Api-Key: {SECRET}\r\n")) == 200
    assert status(guard.exchange(headers=f"X-Api-Key: {SECRET}\r\n")) == 429
    assert status(guard.exchange(headers="X-Api-Key: an-admin-key\r\n")) == 200


def test_a_forged_forwarded_header_buys_nothing(start_guard):
    policy = replace(OPEN, limits=(LimitRule(name="client", quota=Quota(1, 60.0), per="address"),))
    guard = start_guard(policy=policy)
    assert status(guard.exchange(headers="X-Forwarded-For: 192.0.2.1\r\n")) == 200
    assert status(guard.exchange(headers="X-Forwarded-For: 192.0.2.2\r\n")) == 429


def test_a_trusted_proxy_is_believed_for_its_last_hop_only(start_guard):
    policy = replace(
        OPEN,
        identity=Identity(trusted_proxies=("127.0.0.0/8",)),
        limits=(LimitRule(name="client", quota=Quota(1, 60.0), per="address"),),
    )
    guard = start_guard(policy=policy)
    assert status(guard.exchange(headers="X-Forwarded-For: 192.0.2.1\r\n")) == 200
    assert status(guard.exchange(headers="X-Forwarded-For: 192.0.2.2\r\n")) == 200
    assert status(guard.exchange(headers="X-Forwarded-For: 198.51.100.9, 192.0.2.2\r\n")) == 429
    assert status(guard.exchange(headers="X-Forwarded-For: 198.51.100.9\r\nX-Forwarded-For: 192.0.2.2\r\n")) == 429
    assert [record.address for record in guard.settled(4)] == [
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.2",
        "192.0.2.2",
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/V1/chat/completions",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1/%63hat/completions",
    ],
)
def test_what_is_no_route_is_not_there(start_guard, path):
    guard = start_guard()
    assert status(guard.exchange(path=path)) == 404
    assert guard.server.seen == []


def test_a_wrong_method_is_told_the_right_one(start_guard):
    answer = start_guard().send(get("/v1/chat/completions"))
    assert status(answer) == 405
    assert header(answer, "Allow") == "POST"


@pytest.mark.parametrize("path", ["/slots", "/props", "/metrics"])
def test_state_needs_an_admin_key(start_guard, path):
    guard = start_guard(policy=KEYED)
    assert status(guard.send(get(path))) == 401
    assert status(guard.send(get(path, f"X-Api-Key: {SECRET}\r\n"))) == 403
    assert status(guard.send(get(path, "X-Api-Key: an-admin-key\r\n"))) == 200
    assert len(guard.server.seen) == 1
    assert status(start_guard().send(get(path))) == 403


@pytest.mark.parametrize(
    "request_line", ["POST /props", "POST /lora-adapters", "POST /slots/0?action=erase", "POST /tools"]
)
def test_management_is_denied_to_everybody(start_guard, request_line):
    guard = start_guard(policy=KEYED)
    raw = (
        f"{request_line} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key: an-admin-key\r\nConnection: close\r\n"
        "Content-Length: 2\r\n\r\n{}"
    )
    assert status(guard.send(raw.encode())) in (403, 404, 405)
    assert guard.server.seen == []


@pytest.mark.parametrize(
    ("asked", "sent"),
    [({}, 100), ({"max_tokens": -1}, 100), ({"max_tokens": 10**6}, 100), ({"max_tokens": 5}, 5),
     ({"max_tokens": 1, "max_completion_tokens": 10**6}, 100), ({"max_tokens": 2**63}, 100)],
)  # fmt: skip
def test_the_maximum_is_clamped_and_told(start_guard, asked, sent):
    guard = start_guard(policy=replace(OPEN, generation=Generation(max_tokens=100)))
    answer = guard.exchange({"messages": [{"role": "user", "content": "hi"}]} | asked)
    assert status(answer) == 200
    assert header(answer, "X-Corral-Max-Tokens") == str(sent)
    forwarded = guard.server.seen[0].json
    assert [value for name, value in forwarded.items() if "token" in name or name == "n_predict"] == [sent]


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b'"x"', b"nul", b'{"messages":"x"}', b'{"messages":[]}', b'{"messages":[{"role":"user"}]}',
     b'{"messages":[{"role":"user","content":"  "}]}'[:-1], b'{"messages":[{"role":"user","content":"hi"}],"n":99}',
     b'{"messages":[{"role":"user","content":"hi"}],"temperature":1e400}',
     b'{"messages":[{"role":"user","content":"hi"}],"temperature":NaN}',
     b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":"many"}',
     b'{"messages":[{"role":"user","content":"hi"}],"grammar":"root ::= root"}',
     b'{"a":' * 50 + b"1" + b"}" * 50, b"\xff\xfe",
     b'{"messages":[{"role":"user","content":"' + b"x" * 40000 + b'"}]}'],
)  # fmt: skip
def test_a_bad_body_is_the_clients_fault_and_never_reaches_the_server(start_guard, raw):
    guard = start_guard()
    answer = guard.exchange(raw)
    assert status(answer) == 400, answer
    assert body(answer)["error"]["message"]
    assert guard.server.seen == []
    assert guard.guard.running == 0


HI = {"role": "user", "content": "hi"}
LONG = "a b " * 1000


def chat(**more) -> dict:
    return {"messages": [HI]} | more


def call(**more) -> dict:
    return {"type": "function", "id": "x", "function": {"name": "f", "arguments": {}} | more}


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("chat/completions", {"messages": [HI | {"role": LONG}]}),
        ("chat/completions", {"messages": [HI | {"role": "a" * 65}]}),
        ("chat/completions", {"messages": [HI | {"role": "a" * 60, "content": ""}] * 40 + [HI]}),
        ("chat/completions", {"messages": [HI | {"role": "", "content": ""}] * 200 + [HI]}),
        ("chat/completions", {"messages": [HI, HI | {"content": " \n" * 1000}]}),
        ("chat/completions", {"messages": [HI | {"content": [{"type": "text", "text": "hi", LONG: ""}]}]}),
        ("chat/completions", {"messages": [HI, {"role": "assistant", "tool_calls": [call(arguments=LONG)]}]}),
        ("chat/completions", {"messages": [HI, {"role": "assistant", "tool_calls": [call(arguments={LONG: 1})]}]}),
        ("chat/completions", {"messages": [HI, {"role": "assistant", "tool_calls": [[True, None, {}]] * 200}]}),
        ("chat/completions", {"messages": [HI | {"reasoning_content": LONG}]}),
        ("chat/completions", {"messages": [HI | {LONG: ""}]}),
        ("chat/completions", chat(documents=[{"text": LONG}])),
        ("chat/completions", chat(unheard_of=LONG)),
        ("chat/completions", chat(unheard_of={"deep": [{"down": LONG}]})),
        ("chat/completions", chat(unheard_of=[0] * 600)),
        ("chat/completions", chat(chat_template_kwargs={"reasoning_effort": LONG})),
        ("chat/completions", chat(chat_template_kwargs={"reasoning_effort": "a" * 65})),
        ("completions", {"prompt": "hi", "suffix": LONG}),
        ("completions", {"prompt": ["hi", " " * 3000]}),
        ("responses", {"input": "hi", "instructions": LONG}),
        ("responses", {"input": "hi", "unheard_of": LONG}),
        ("responses", {"input": [HI | {"role": "a" * 65}]}),
        ("responses", {"input": [{LONG: "hi"}]}),
        ("messages", chat(system=LONG)),
        ("messages", chat(unheard_of=[LONG])),
        ("embeddings", {"input": "hi", "messages": [HI | {"content": LONG}]}),
        ("../infill", {"input_prefix": "a", "input_suffix": "b", "input_extra": [{"text": "c", "d": LONG}]}),
        ("../infill", {"input_prefix": "a", "input_suffix": "b", "unheard_of": LONG}),
        ("../completion", {"prompt": "hi", "unheard_of": LONG}),
        ("../completion", {"prompt": {"prompt_string": "hi", "multimodal_data": [LONG]}}),
    ],
)  # fmt: skip
def test_no_field_carries_a_prompt_past_its_bound(start_guard, path, sent):
    guard = start_guard(policy=replace(OPEN, generation=Generation(max_prompt=2000)))
    answer = guard.exchange(sent, path=f"/v1/{path}".replace("/v1/..", ""))
    assert status(answer) == 400, answer
    assert guard.server.seen == []


@pytest.mark.parametrize(
    "sent",
    [
        chat(messages=[HI | {"content": "a" * 1900}]),
        chat(messages=[HI | {"role": "a" * 64}]),
        chat(model="m" * 3000),
        chat(chat_template_kwargs={"enable_thinking": True, "reasoning_effort": "high"}),
        chat(stop=["x"], stream_options={"include_usage": True}, user="u" * 100, logit_bias={"1": 2}, seed=None),
        chat(messages=[{"role": "assistant", "content": None, "tool_calls": [call(arguments="{}")]}, HI]),
    ],
)
def test_what_keeps_to_the_bound_is_served(start_guard, sent):
    assert status(start_guard(policy=replace(OPEN, generation=Generation(max_prompt=2000))).exchange(sent)) == 200


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/chat/completions", chat(messages=[{"role": "user", "content": " \n"}], stop=["x"], user="me")),
        ("/v1/chat/completions", chat(messages=[{"role": "user", "content": []}, {"role": "user", "content": ""}])),
        ("/v1/completions", {"prompt": " ", "suffix": "x"}),
        ("/completion", {"prompt": {"prompt_string": ""}}),
        ("/infill", {"input_prefix": "", "input_suffix": " ", "input_extra": []}),
        ("/v1/responses", {"input": " ", "user": "me"}),
    ],
)
def test_other_fields_do_not_fill_an_empty_prompt(start_guard, path, sent):
    answer = start_guard().exchange(sent, path=path)
    assert status(answer) == 400
    assert b"The prompt is empty." in answer


def many(part: bytes, start: bytes = b'{"messages":[{"role":"user","content":[', end: bytes = b"]}]}") -> bytes:
    """Write a body of just under 1 MiB that repeats one part."""
    return start + b",".join([part] * ((2**20 - 200) // (len(part) + 1))) + end


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (many(b"0"), b"too many values"),
        (many(b"[]"), b"too many values"),
        (many(b"{}"), b"too many values"),
        (many(b"[" * 20 + b"]" * 20), b"too many values"),
        (many(b'{"role":"","content":""}', b'{"messages":[', b"]}"), b"too many values"),
        (many(b"0", b'{"prompt":[', b"]}"), b"too many values"),
        (many(b"[]", b'{"messages":[{"role":"u","content":"x"}],"tools":[', b"]}"), b"too many values"),
        (b"{" + b",".join(b'"%x":0' % number for number in range(100_000)) + b"}", b"too many values"),
        (b'{"messages":[{"role":"user","content":[' + b",".join([b"[]"] * 15_000) + b"]}]}", b"10,000 lists"),
    ],
)
def test_a_body_of_countless_values_is_refused_before_it_is_looked_through(start_guard, raw, said):
    guard = start_guard()
    answer = guard.exchange(raw)
    assert status(answer) == 400
    assert said in answer
    assert guard.server.seen == []


def test_a_long_text_may_have_as_many_commas_as_characters(start_guard):
    guard = start_guard()
    assert status(guard.exchange({"messages": [{"role": "user", "content": ",[{" * 10_000}]})) == 200


def test_a_repeated_key_is_forwarded_once(start_guard):
    guard = start_guard()
    guard.exchange(b'{"max_tokens":5,"messages":[{"role":"user","content":"hi"}],"max_tokens":7}')
    assert guard.server.seen[0].body.count(b"max_tokens") == 1


def test_a_web_page_cannot_use_an_open_guard(start_guard):
    guard = start_guard()
    chat = b'{"messages":[{"role":"user","content":"hi"}]}'
    simple = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.example\r\n"
        b"Content-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(chat)
    )
    assert status(guard.send(simple + chat)) == 415
    rebound = simple.replace(b"127.0.0.1", b"evil.example:8080").replace(b"text/plain", b"application/json")
    assert status(guard.send(rebound + chat)) == 403
    assert guard.server.seen == []


def test_health_is_open_and_asks_the_server_once_for_many(start_guard):
    guard = start_guard(policy=KEYED)
    for _ in range(20):
        answer = guard.send(get("/health"))
        assert status(answer) == 200
        assert body(answer) == {"status": "ok"}
    assert len(guard.server.seen) <= 2


def test_errors_speak_the_clients_dialect(start_guard):
    guard = start_guard(policy=KEYED)
    assert body(guard.exchange(path="/completion"))["error"]["code"] == 401
    assert body(guard.exchange(path="/v1/chat/completions"))["error"]["code"] in (
        "invalid_api_key",
        "missing_api_key",
    )
    assert body(guard.exchange(path="/v1/messages"))["type"] == "error"


def test_one_place_is_taken_at_a_time(start_guard):
    guard = start_guard(policy=replace(OPEN, concurrency=Concurrency(max_running=1)))
    for _ in range(5):
        assert status(guard.exchange()) == 200
    assert guard.guard.running == 0


def test_basic_is_taken_and_a_key_in_the_url_is_not(start_guard):
    guard = start_guard(policy=KEYED)
    basic = b64encode(f"anyone:{SECRET}".encode()).decode()
    assert status(guard.exchange(headers=f"Authorization: Basic {basic}\r\n")) == 200
    refused = guard.exchange(path=f"/v1/chat/completions?api_key={SECRET}")
    assert status(refused) == 400
    assert body(refused)["error"]["code"] == "key_in_url"
    assert "URL" in body(refused)["error"]["message"]
    assert all(SECRET not in str(record) for record in guard.settled(2))


def test_keys_come_and_go_while_the_guard_runs(start_guard, tmp_path):
    path = tmp_path / "keys.db"
    guard = start_guard(
        policy=Policy(
            auth="keys",
            limits=(),
            credentials=Credentials(store=str(path)),
            max_failed_logins=Quota(10**6, 60.0),
        )
    )
    with KeyStore.create(path) as store, guard.connect() as connection:
        desk = KeyDesk(store, Policy())
        secret = desk.create("alice", time.time(), plan=None, admin=False, lifetime=None).secret
        request = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %b\r\n\r\n" % secret.encode()

        def ask_until(wanted: int) -> bytes:
            end = time.monotonic() + 10
            while True:
                connection.sendall(request)
                answer = connection.recv(65536)
                if status(answer) == wanted:
                    return answer
                assert status(answer) in (200, 401), answer
                assert time.monotonic() < end

        ask_until(200)
        desk.revoke("alice", time.time())
        assert b"revoked_api_key" in ask_until(401)
    assert guard.records[-1].client == ""


def test_a_plan_is_told_its_own_quotas(start_guard):
    pro = Plan(limits=(LimitRule(name="pro", quota=Quota(7, 60.0)),))
    secret = replace(key("p", "of-pro"), plan="pro")
    guard = start_guard(policy=Policy(auth="keys", keys=(secret, key("n", "of-none")), plan={"pro": pro}))
    planned = guard.exchange(headers="X-Api-Key: of-pro\r\n")
    assert header(planned, "RateLimit-Policy") == '"pro";q=7;w=60'
    assert header(planned, "X-RateLimit-Limit") == "7"
    other = guard.exchange(headers="X-Api-Key: of-none\r\n")
    assert header(other, "RateLimit-Policy") == '"client";q=30;w=60, "address";q=300;w=60'


def test_asking_for_health_without_a_key_is_no_failed_login(start_guard):
    guard = start_guard(policy=KEYED)
    for _ in range(30):
        assert status(guard.send(get("/health"))) == 200
    assert status(guard.send(get("/v1/models"))) == 401
