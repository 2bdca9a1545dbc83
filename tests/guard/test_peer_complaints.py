"""What users of other gateways and limiters complain of, and what crashes the servers behind them, tried here.

Each docstring says where the complaint was made.
"""

import asyncio
import json
import re
from contextlib import ExitStack
from dataclasses import replace

import pytest

from corral.dialects import dialect
from corral.engine import limits_from
from corral.errors import PolicyError
from corral.guard.caller import Visit
from corral.guard.logins import Logins
from corral.guard.pipeline import Pipeline
from corral.guard.refusal import Refusal
from corral.policy.load import load_policy
from corral.policy.model import (
    Concurrency,
    Generation,
    Identity,
    LimitRule,
    Policy,
    Quota,
    Upstream,
)
from corral.stores.memory import MemoryStore
from running_guard import CHAT, RunningGuard, answer, api_key, post

HI = [{"role": "user", "content": "hi"}]
OPEN = Policy(auth="none", limits=())
KEYED = Policy(auth="keys", keys=(api_key("alice", "Key-Of-Alice"), api_key("bob", "Key-Of-Bob")), limits=())
ALICE, BOB = "X-Api-Key: Key-Of-Alice\r\n", "X-Api-Key: Key-Of-Bob\r\n"
STREAM = {"messages": HI, "stream": True}
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = (
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"b"}}],"usage":{"prompt_tokens":7,"completion_tokens":1}}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
)


def limited(policy: Policy, amount: int, **more) -> Policy:
    return replace(policy, limits=(LimitRule(name="client", quota=Quota(amount, 3600.0), **more),))


def one_place(policy: Policy, waiting: int = 0) -> Policy:
    return replace(policy, concurrency=Concurrency(max_running=1, max_waiting=waiting))


def status(seen: bytes) -> int:
    return int(seen.split()[1])


def body(seen: bytes):
    return json.loads(seen.partition(b"\r\n\r\n")[2])


def header(seen: bytes, name: str) -> str | None:
    found = re.search(rf"(?im)^{name}: (.*?)\r$", seen.partition(b"\r\n\r\n")[0].decode() + "\r\n")
    return found[1] if found else None


def get(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}\r\n".encode()


async def stream(seen, writer):
    writer.write(STREAM_HEAD + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS) + b"0\r\n\r\n")


async def hang(seen, writer):
    await asyncio.sleep(60)


class Gate:
    """A server that begins each answer as `first` says, and ends it when it is let go."""

    def __init__(self, first: bytes = b"", rest: bytes = answer(CHAT)) -> None:
        self.first, self.rest = first, rest
        self.order: list[str] = []
        self.open = asyncio.Event()

    async def __call__(self, seen, writer):
        self.order.append(seen.json["messages"][0]["content"])
        writer.write(self.first)
        await self.open.wait()
        writer.write(self.rest)

    def let_go(self, guard: RunningGuard) -> None:
        guard.loop.call_soon_threadsafe(self.open.set)


def until(guard: RunningGuard, *, running: int, waiting: int = 0) -> None:
    async def look():
        while (guard.guard.running, guard.guard.waiting) != (running, waiting):
            await asyncio.sleep(0.002)

    guard.call(asyncio.wait_for(look(), 10))


# limits that are passed


def test_requests_that_come_at_once_never_pass_a_limit_together(start_guard):
    """LiteLLM #18730, #5783; Envoy AI Gateway #680, #2394: what is charged after the answer stops nobody meanwhile."""
    gate = Gate()
    policy = replace(limited(OPEN, 5), upstream=Upstream(slots=50))
    guard = start_guard(gate, policy)
    with ExitStack() as stack:
        connections = [stack.enter_context(guard.connect()) for _ in range(30)]
        for connection in connections:
            connection.sendall(post({"messages": HI}))
        guard.settled(25)  # refused while not one answer has come
        assert guard.guard.running == 5
        gate.let_go(guard)
        answers = sorted(status(connection.recv(65536)) for connection in connections)
    assert answers == [200] * 5 + [429] * 25


@pytest.mark.parametrize(
    ("path", "sent", "name"),
    [
        ("/v1/responses", {"input": "hi"}, "max_output_tokens"),
        ("/v1/responses", {"input": "hi", "max_output_tokens": 10**6}, "max_output_tokens"),
        ("/v1/messages", {"messages": HI, "max_tokens": 10**6}, "max_tokens"),
        ("/v1/completions", {"prompt": "hi"}, "max_tokens"),
        ("/completion", {"prompt": "hi", "n_predict": -1}, "n_predict"),
    ],
)
def test_every_route_is_held_to_the_maximum(start_guard, path, sent, name):
    """LiteLLM #34728: a route of another name was counted as one token."""
    guard = start_guard(policy=replace(OPEN, generation=Generation(max_tokens=100)))
    seen = guard.exchange(sent, path=path)
    assert (status(seen), header(seen, "X-Corral-Max-Tokens")) == (200, "100")
    assert guard.server.seen[0].json[name] == 100


@pytest.mark.parametrize("large", ["max_completion_tokens", "max_output_tokens", "n_predict", "num_predict"])
def test_a_small_maximum_hides_no_large_one_beside_it(start_guard, large):
    """LiteLLM #34223: `max_tokens: 1` beside a large `max_completion_tokens` was believed."""
    guard = start_guard(policy=replace(OPEN, generation=Generation(max_tokens=100)))
    assert header(guard.exchange({"messages": HI, "max_tokens": 1, large: 10**6}), "X-Corral-Max-Tokens") == "100"
    sent = guard.server.seen[0].json
    assert {name: value for name, value in sent.items() if name != "messages"} == {"max_tokens": 100}


def test_a_first_request_that_names_no_maximum_is_served(start_guard):
    """LiteLLM #28805, #29193: it was refused, for the largest maximum there is was reserved."""
    guard = start_guard(policy=limited(OPEN, 1))
    assert status(guard.exchange({"messages": HI})) == 200


# places and quotas that leak


def test_no_ending_leaks_a_place(start_guard):
    """LiteLLM #20256, #17323: counts of what runs stayed up until they were reset by hand."""
    endings = iter(["leave", "die", "nonsense", "late", "cut", "serve"])

    async def serve(seen, writer):
        ending = next(endings)
        if ending in ("leave", "late"):
            await asyncio.sleep(60)
        elif ending == "nonsense":
            writer.write(b"nonsense\r\n\r\n")
        elif ending == "cut":
            writer.write(STREAM_HEAD + b"9\r\ndata: 1\n\n\r\n")
            await writer.drain()
        elif ending == "serve":
            writer.write(answer(CHAT))
        if ending in ("die", "cut"):
            writer.close()

    guard = start_guard(serve, replace(one_place(OPEN), upstream=replace(Upstream(), first_byte_timeout=0.3)))
    with guard.connect() as connection:
        connection.sendall(post({"messages": HI}))
        until(guard, running=1)
        guard.call(asyncio.wait_for(_reached(guard, 1), 10))
    guard.settled(1)
    assert [status(guard.exchange()) for _ in range(3)] == [502, 502, 504]
    assert guard.exchange(STREAM).startswith(b"HTTP/1.1 200 ")
    assert status(guard.exchange(b"no JSON")) == 400
    assert status(guard.exchange()) == 200
    assert [record.ending for record in guard.settled(7)] == [
        "client-left", "upstream-failed", "upstream-failed", "timed-out", "upstream-failed", "refused", "answered",
    ]  # fmt: skip
    assert guard.guard.running == 0


async def _reached(guard: RunningGuard, count: int) -> None:
    while len(guard.server.seen) < count:
        await asyncio.sleep(0.002)


def test_a_request_refused_for_concurrency_burns_no_request_quota(start_guard):
    """LiteLLM #39309; aisix #450: whoever was told to come back later found the quota gone."""
    gate = Gate()
    guard = start_guard(gate, one_place(limited(OPEN, 2)))
    with guard.connect() as first:
        first.sendall(post({"messages": HI}))
        until(guard, running=1)
        assert [status(guard.exchange()) for _ in range(10)] == [503] * 10
        gate.let_go(guard)
        assert status(first.recv(65536)) == 200
    assert [status(guard.exchange()) for _ in range(2)] == [200, 429]


def test_a_request_refused_by_one_limit_burns_nothing_of_another(start_guard):
    """LiteLLM #39309: limits were charged one after the other, and the first kept what the second refused."""
    rules = (
        LimitRule(name="everyone", quota=Quota(3, 3600.0), per="everyone"),
        LimitRule(name="client", quota=Quota(1, 3600.0)),
    )
    guard = start_guard(policy=replace(KEYED, limits=rules))
    assert [status(guard.exchange(headers=ALICE)) for _ in range(10)] == [200] + [429] * 9
    assert header(guard.exchange(headers=BOB), "RateLimit-Policy") == '"everyone";q=3;w=3600, "client";q=1;w=3600'
    assert [record.limit for record in guard.settled(11)] == [""] + ["client"] * 9 + [""]


def test_a_refusal_leaves_the_time_of_return_where_it_was(start_guard):
    """Portkey's script emptied the bucket on refusal, so that impatience was punished without end."""
    guard = start_guard(policy=limited(OPEN, 2, burst=1))
    assert status(guard.exchange()) == 200
    told = [int(header(guard.exchange(), "Retry-After") or 0) for _ in range(20)]
    assert max(told) <= 1800
    assert told == sorted(told, reverse=True)


def test_rounding_makes_no_time_of_return_a_second_later():
    """Adding a wait to the clock and taking the clock off again may give a little more than the wait."""
    policy = limited(OPEN, 2, burst=1)
    told = set()
    for now in (7000.0 + number / 1000 for number in range(500)):
        store = MemoryStore(limits_from(policy.limits))
        logins = Logins(policy.max_failed_logins)
        pipeline = Pipeline(policy, dialect("llamacpp"), store, logins, open_to_all=True, check_host=False)
        session = pipeline.session("192.0.2.1")
        assert isinstance(pipeline.enter(b"GET", b"/v1/models", {}, session, now), Visit)
        refused = pipeline.enter(b"GET", b"/v1/models", {}, session, now)
        assert isinstance(refused, Refusal)
        told.add(refused.retry_after)
    assert told == {1800}


# streams


def test_a_stream_counts_as_one_request_and_its_usage_once(start_guard):
    """LiteLLM #41610: streams were not counted. Higress #1080: they were counted twice."""
    guard = start_guard(stream, limited(OPEN, 2))
    assert [status(guard.exchange(STREAM)) for _ in range(3)] == [200, 200, 429]
    assert [(record.prompt_tokens, record.completion_tokens) for record in guard.settled(3)] == [
        (7, 2),
        (7, 2),
        (-1, -1),
    ]


def test_a_stream_holds_its_place_to_its_last_byte(start_guard):
    """aisix #688: it was released when the answer's head had come."""
    gate = Gate(STREAM_HEAD + b"9\r\ndata: 1\n\n\r\n", b"0\r\n\r\n")
    guard = start_guard(gate, one_place(OPEN))
    with guard.connect() as connection:
        connection.sendall(post(STREAM))
        seen = b""
        while b"data: 1" not in seen:
            seen += connection.recv(4096)
        assert guard.guard.running == 1
        assert status(guard.exchange()) == 503
        gate.let_go(guard)
        while not seen.endswith(b"0\r\n\r\n"):
            seen += connection.recv(4096)
    guard.settled(2)
    assert guard.guard.running == 0


def test_a_stream_is_limited_and_told_its_quota_as_any_answer_is(start_guard):
    """slowapi #249: an answer that streams broke the limiter's headers."""
    guard = start_guard(stream, limited(OPEN, 1))
    served, refused = guard.exchange(STREAM), guard.exchange(STREAM)
    assert header(served, "RateLimit").startswith('"client";r=0;t=')
    assert (status(refused), header(refused, "Content-Type")) == (429, "application/json")


# limits that are silently inactive


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('auth = "none"\n[[limits]]\nname = "a"\nquota = "1/minute"\nper = "key"\n', "nobody has a key"),
        ('[[limits]]\nname = "a"\nquota = "1/minute"\nprr = "key"\n', "prr"),
        ('[[limit]]\nname = "a"\nquota = "1/minute"\n', "limit"),
    ],
)
def test_a_limit_that_could_not_apply_is_an_error_and_no_silence(text, said):
    """APISIX, Higress #4067: a limit did nothing where another plugin was missing, and nothing said so."""
    with pytest.raises(PolicyError, match=said):
        load_policy(text=text)


def test_a_path_that_no_route_matches_is_not_exempt(start_guard):
    """slowapi passes over what none of its handlers match."""
    guard = start_guard(policy=replace(OPEN, max_failed_logins=Quota(3, 3600.0)))
    assert [status(guard.exchange(path=f"/nowhere/{number}")) for number in range(5)] == [404] * 3 + [429] * 2
    assert guard.server.seen == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
def test_every_alias_of_a_route_is_counted_together(start_guard, path):
    """slowapi counts each handler for itself."""
    guard = start_guard(policy=limited(OPEN, 1))
    assert status(guard.exchange(path="/v1/chat/completions")) == 200
    assert status(guard.exchange(path=path)) == 429


def test_a_failure_while_admitting_lets_nothing_pass(start_guard, monkeypatch):
    """lollms_hub raises its 429 within a `try` that swallows it."""

    def fail(*_):
        raise RuntimeError("the limiter is broken")

    monkeypatch.setattr(Logins, "check", fail)
    guard = start_guard(policy=KEYED)
    assert status(guard.exchange(headers=ALICE)) == 503
    assert guard.server.seen == []


# whose request it is


@pytest.mark.parametrize("proxies", [(), ("127.0.0.0/8",)])
def test_the_first_entry_of_a_forwarded_header_is_nobody(start_guard, proxies):
    """Higress; fastapi-limiter, pull request 11: the first entry is what the client itself wrote."""
    guard = start_guard(policy=replace(limited(OPEN, 1, per="address"), identity=Identity(trusted_proxies=proxies)))
    answers = [
        status(guard.exchange(headers=f"X-Forwarded-For: 192.0.2.{number}, 198.51.100.7\r\n")) for number in range(5)
    ]
    assert answers == [200, 429, 429, 429, 429]
    counted = "198.51.100.7" if proxies else "127.0.0.1"
    assert {record.address for record in guard.settled(5)} == {counted}


# what a client is told


@pytest.mark.parametrize("given", ["429 Too Many Requests", "503 Service Unavailable"])
def test_the_servers_own_time_of_return_reaches_the_client(start_guard, given):
    """LiteLLM #21553: the server's Retry-After was dropped."""

    async def busy(seen, writer):
        writer.write(answer({}, given).replace(b"\r\n\r\n", b"\r\nRetry-After: 17\r\n\r\n"))

    assert header(start_guard(busy).exchange(), "Retry-After") == "17"


@pytest.mark.parametrize(
    ("per", "whose"),
    [("client", "this client"), ("key", "this key"), ("address", "this address"), ("everyone", "all clients")],
)
def test_a_refusal_says_whose_limit_it_was_and_when_to_return(start_guard, per, whose):
    """TensorZero #3678; agentgateway #1313, #2351: clients were told neither."""
    roomy = LimitRule(name="roomy", quota=Quota(100, 60.0), per="everyone")
    guard = start_guard(policy=replace(KEYED, limits=(roomy, LimitRule(name="tight", quota=Quota(1, 60.0), per=per))))
    assert status(guard.exchange(headers=ALICE)) == 200
    refused = guard.exchange(headers=ALICE)
    error = body(refused)["error"]
    wait = header(refused, "Retry-After")
    assert status(refused) == 429
    assert 50 < int(wait or 0) <= 60
    assert error["message"] == (
        f'Rate limit reached for {whose}: at most 1 request in 60 seconds (limit "tight"). '
        f"Please try again in {wait} seconds."
    )
    assert error["violated-policies"] == ["tight"]
    assert header(refused, "RateLimit") == f'"tight";r=0;t={wait}'


# a small server's queue


def test_a_flood_delays_anothers_one_request_by_one_service_at_most(start_guard):
    """llama.cpp #14343, #6607; llama-swap #414, #653: whoever sends most is served most."""
    gate = Gate()
    guard = start_guard(gate, one_place(KEYED, waiting=64))
    with ExitStack() as stack:
        for number in range(20):
            connection = stack.enter_context(guard.connect())
            connection.sendall(post({"messages": [{"role": "user", "content": "flood"}]}, headers=ALICE))
            until(guard, running=1, waiting=number)
        other = stack.enter_context(guard.connect())
        other.sendall(post({"messages": [{"role": "user", "content": "other"}]}, headers=BOB))
        until(guard, running=1, waiting=20)
        gate.let_go(guard)
        assert status(other.recv(65536)) == 200
        guard.settled(21)
    assert gate.order.index("other") <= 2


def test_what_waits_is_bounded_and_the_next_is_refused_at_once(start_guard):
    """Ollama #7758: its bound does not hold for a loaded model. vLLM #13395, #18826: there was none."""
    guard = start_guard(hang, one_place(KEYED, waiting=3))
    with ExitStack() as stack:
        for number in range(4):
            stack.enter_context(guard.connect()).sendall(post({"messages": HI}, headers=ALICE))
            until(guard, running=1, waiting=number)
        refused = guard.exchange(headers=ALICE)
        assert (status(refused), body(refused)["error"]["code"]) == (503, "overloaded")
        assert int(header(refused, "Retry-After") or 0) >= 1
        assert len(guard.server.seen) == 1


def test_one_request_interrupts_no_others_stream(start_guard):
    """llama-cpp-python ends a stream when the next request comes; here that waits for its end."""
    gate = Gate(STREAM_HEAD + b"9\r\ndata: 1\n\n\r\n", b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
    guard = start_guard(gate, one_place(KEYED, waiting=1))
    with guard.connect() as first, guard.connect() as second:
        first.sendall(post(STREAM, headers=ALICE))
        until(guard, running=1)
        second.sendall(post(STREAM, headers=BOB))
        until(guard, running=1, waiting=1)
        assert len(guard.server.seen) == 1
        gate.let_go(guard)
        for connection in (first, second):
            seen = b""
            while not seen.endswith(b"0\r\n\r\n"):
                seen += connection.recv(4096)
            assert b"data: 1" in seen
            assert b"data: 2" in seen


# what crashes servers


@pytest.mark.parametrize("value", [-1, -(2**31), 2**40, 1.5])
def test_no_n_discard_reaches_llama_server(start_guard, value):
    """CVE-2026-21869: a negative one writes out of bounds."""
    guard = start_guard(policy=OPEN)
    assert status(guard.exchange({"prompt": "hi", "n_discard": value}, path="/completion")) == 200
    assert "n_discard" not in guard.server.seen[0].json


def nested(depth: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def function(schema: dict) -> list[dict]:
    return [{"type": "function", "function": {"name": "f", "parameters": schema}}]


def reply_format(schema: dict) -> dict:
    return {"type": "json_schema", "json_schema": {"schema": schema}}


GRAMMARS = replace(OPEN, generation=Generation(grammar=True))
PATTERN = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (OPEN, {"grammar": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000}),
        (GRAMMARS, {"grammar": "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000}),
        (OPEN, {"grammar": "%llguidance {}\nstart: /a+/"}),
        (GRAMMARS, {"grammar": "%llguidance {}\nstart: /a+/"}),
        (OPEN, {"json_schema": PATTERN}),
        (OPEN, {"response_format": reply_format(PATTERN)}),
        (OPEN, {"tools": function(PATTERN)}),
        (OPEN, {"tools": function({"type": "object", "patternProperties": {"(a+)+": {}}})}),
        (OPEN, {"json_schema": nested(40)}),
        (OPEN, {"response_format": reply_format(nested(40))}),
        (OPEN, {"tools": function(nested(40))}),
        (OPEN, {"json_schema": {"enum": ["a" * 1000] * 30}}),
        (OPEN, {"grammar_lazy": True, "grammar_triggers": [{"type": 3, "value": "(a+)+"}]}),
        (OPEN, {"guided_regex": "(a+)+$"}),
        (OPEN, {"structured_outputs": {"regex": "(a+)+$"}}),
    ],
)
def test_no_grammar_that_crashes_a_server_reaches_it(start_guard, policy, field):
    """llama.cpp #26600, #25960, #25283, #25284; CVE-2025-48944 of vLLM: deep ones, other languages, patterns."""
    guard = start_guard(policy=policy)
    refused = guard.exchange({"messages": HI} | field)
    assert status(refused) == 400
    assert guard.server.seen == []


@pytest.mark.parametrize(
    "field",
    [
        b'"temperature":1e308', b'"temperature":1e400', b'"temperature":-1', b'"temperature":NaN', b'"top_p":-0.5',
        b'"top_k":-99999999999', b'"min_p":2', b'"typical_p":1e9', b'"repeat_penalty":1e30', b'"repeat_last_n":-2',
        b'"dynatemp_range":1e30', b'"dynatemp_exponent":1e30', b'"mirostat":7', b'"mirostat_tau":1e30',
        b'"xtc_probability":9', b'"dry_multiplier":1e30', b'"dry_allowed_length":-5', b'"top_n_sigma":1e30',
        b'"presence_penalty":1e30', b'"seed":1e400', b'"n_probs":1000000', b'"logit_bias":7', b'"n_keep":-77',
    ],
)  # fmt: skip
def test_no_sampler_out_of_range_reaches_a_server(start_guard, field):
    """llama.cpp #19367: extreme values ended it."""
    guard = start_guard(policy=OPEN)
    assert status(guard.exchange(b'{"prompt":"hi",' + field + b"}", path="/completion")) == 400
    assert guard.server.seen == []


@pytest.mark.parametrize("field", ["n", "best_of", "n_cmpl"])
@pytest.mark.parametrize("value", [2, 10**9, -1, 0])
def test_the_number_of_answers_is_capped(start_guard, field, value):
    """CVE-2026-34756 of vLLM: a large `n` took all memory before anything ran."""
    guard = start_guard(policy=OPEN)
    assert status(guard.exchange({"messages": HI, field: value})) == 400
    assert guard.server.seen == []


def test_only_known_template_arguments_reach_a_server(start_guard):
    """CVE-2025-62426 of vLLM: a client could pass arguments of the template's own machinery."""
    guard = start_guard(policy=OPEN)
    sent = {"tokenize": True, "chat_template": "{{ x }}", "documents": [], "enable_thinking": False}
    assert status(guard.exchange({"messages": HI, "chat_template_kwargs": sent})) == 200
    assert guard.server.seen[0].json["chat_template_kwargs"] == {"enable_thinking": False}
    assert status(guard.exchange({"messages": HI, "chat_template": "{{ x }}"})) == 400


def test_no_huge_header_reaches_a_server(start_guard):
    """CVE-2025-48956 of vLLM: it read heads of any length into memory."""
    guard = start_guard(policy=OPEN)
    assert status(guard.exchange(headers=f"X-Huge: {'a' * 17_000}\r\n")) == 431
    assert guard.server.seen == []


@pytest.mark.parametrize(
    "host", ["elsewhere.example", "elsewhere.example/v1/models?", "127.0.0.1:80@elsewhere", "127.0.0.1/..", "a b", ""]
)
def test_no_host_of_the_clients_reaches_a_server(start_guard, host):
    """CVE-2026-48746 of vLLM, CVE-2026-48710 of Starlette: what the client called it became part of the path."""
    guard = start_guard(policy=KEYED)
    raw = post({"messages": HI}, headers=ALICE + "Connection: close\r\n")
    assert status(guard.send(raw.replace(b"Host: 127.0.0.1", b"Host: " + host.encode()))) == 200
    assert guard.server.seen[0].line == "POST /v1/chat/completions HTTP/1.1"
    assert guard.server.seen[0].head["host"] == f"127.0.0.1:{guard.server.port}"


@pytest.mark.parametrize("host", ["elsewhere.example", "127.0.0.1.elsewhere.example", "localhost.elsewhere", "1e1"])
def test_no_page_of_another_name_reaches_a_guard_that_asks_for_no_key(start_guard, host):
    """Ollama and others: a web page gives its own name this machine's address, and reads the answers."""
    guard = start_guard(policy=OPEN)
    raw = post({"messages": HI}, headers="Connection: close\r\n")
    assert status(guard.send(raw.replace(b"Host: 127.0.0.1", b"Host: " + host.encode()))) == 403
    assert guard.server.seen == []


VLLM = ["/invocations", "/tokenize", "/detokenize", "/pooling", "/score", "/rerank", "/pause", "/resume", "/sleep",
        "/update_weights", "/collective_rpc", "/v1/load_lora_adapter", "/classify", "/ping"]  # fmt: skip
OLLAMA = ["/api/pull", "/api/delete", "/api/create", "/api/push", "/api/copy", "/api/blobs/sha256:0", "/api/generate"]
TGI = ["/chat_tokenize", "/info", "/metrics", "/generate", "/"]


@pytest.mark.parametrize("dialect", ["openai", "llamacpp"])
@pytest.mark.parametrize("path", VLLM + OLLAMA + TGI)
def test_no_route_of_any_server_is_open_without_a_key(start_guard, dialect, path):
    """vLLM's key covers some prefixes only, TGI's not its state, and Ollama has none (CVE-2026-7482 among others)."""
    guard = start_guard(policy=replace(KEYED, upstream=replace(Upstream(), dialect=dialect)))
    for method in ("GET", "POST", "DELETE", "PUT"):
        raw = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
        assert status(guard.send(raw.encode())) == 401
    assert guard.server.seen == []


@pytest.mark.parametrize("dialect", ["openai", "llamacpp"])
@pytest.mark.parametrize(
    "path", [path for path in VLLM + OLLAMA + TGI if path not in ("/tokenize", "/detokenize", "/rerank")]
)
def test_no_management_is_open_to_an_ordinary_key(start_guard, dialect, path):
    """vLLM, Ollama, TGI: whoever may chat may also pull, delete, pause or reload."""
    guard = start_guard(policy=replace(KEYED, upstream=replace(Upstream(), dialect=dialect)))
    assert status(guard.exchange({"prompt": "hi", "input": "hi"}, path=path, headers=ALICE)) in (403, 404, 405)
    assert status(guard.send(get(path, ALICE))) in (403, 404, 405)
    assert guard.server.seen == []


@pytest.mark.parametrize("sent", ["key-of-alice", "KEY-OF-ALICE", "Key-Of-alice", "Key-Of-Alice ", "Key-Of-Alic"])
def test_a_key_is_its_bytes_exactly(start_guard, sent):
    """TGI compares keys without regard to case."""
    guard = start_guard(policy=KEYED)
    same = sent.strip() == "Key-Of-Alice"  # blanks around a field's value are no part of it
    assert status(guard.exchange(headers=f"Authorization: Bearer {sent}\r\n")) == (200 if same else 401)
