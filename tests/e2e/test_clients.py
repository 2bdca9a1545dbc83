"""Clients as people have them, unmodified, in front of the guard and the real llama-server."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import anthropic
import openai
import pytest

from corral.demo.llama_server import LlamaServer
from corral.policy.model import Bounds, Concurrency, Generation, LimitRule, Plan, Policy, Quota, Upstream
from running_guard import RunningGuard, answer, api_key, post

pytestmark = pytest.mark.e2e

KEY, NARROW_KEY = "the-key-of-alice", "the-key-of-bob"
POLICY = Policy(
    auth="keys",
    keys=(api_key("alice", KEY), replace(api_key("bob", NARROW_KEY), plan="narrow")),
    plan={"narrow": Plan(models=("another",))},
    limits=(),
    generation=Generation(max_tokens=100_000),
)
ONCE = replace(POLICY, limits=(LimitRule(name="client", quota=Quota(1, 60.0)),))
FULL = replace(POLICY, concurrency=Concurrency(max_running=1, max_waiting=0))
SMALL = replace(POLICY, bounds=replace(Bounds(), max_body=10_000))
SEA = [{"role": "user", "content": "Tell me of the sea."}]
LONG = [{"role": "user", "content": "sea " * 5000}]
WEATHER = {
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch):
    """Let no client find keys, addresses or a tracer in the environment."""
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "ANTHROPIC_", "LANGCHAIN_", "LANGSMITH_")):
            monkeypatch.delenv(name)
    for name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "false")


@pytest.fixture
def guard(start_guard, llama_server):
    def start(policy: Policy = POLICY) -> RunningGuard:
        return start_guard(policy=replace(policy, upstream=replace(Upstream(), url=llama_server.url)))

    return start


@pytest.fixture(scope="module")
def embedder(tiny_model) -> Iterator[LlamaServer]:
    """A llama-server that embeds."""
    with LlamaServer.start(tiny_model, extra=["-np", "2", "-c", "4096", "--embeddings", "--pooling", "mean"]) as server:
        yield server


@contextmanager
def one_running(guard: RunningGuard) -> Iterator[None]:
    """Keep a place taken by a stream that does not end meanwhile."""
    with guard.connect() as connection:
        body = {"messages": SEA, "stream": True, "max_tokens": 100_000}
        connection.sendall(post(body, headers=f"X-Api-Key: {KEY}\r\n"))
        seen = b""
        while b"data: " not in seen:
            seen += connection.recv(4096)
        yield


# openai


@contextmanager
def openai_client(guard: RunningGuard, key: str = KEY) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{guard.port}/v1", api_key=key, max_retries=0) as client:
        yield client


def test_openai_streams_with_usage_at_the_end(guard):
    with openai_client(guard()) as client:
        options = {"include_usage": True}
        events = list(
            client.chat.completions.create(
                model="tiny", messages=SEA, max_tokens=12, stream=True, stream_options=options
            )
        )
    assert len([event for event in events if event.choices and event.choices[0].delta.content]) >= 10
    assert events[-1].usage.completion_tokens == 12


def test_openai_sends_tools(guard):
    tools = [{"type": "function", "function": WEATHER}]
    with openai_client(guard()) as client:
        said = client.chat.completions.create(model="tiny", messages=SEA, max_tokens=12, tools=tools)
    assert said.usage.completion_tokens == 12
    assert said.choices[0].message.content


def test_openai_gets_the_tool_calls_that_a_server_makes(start_guard):
    """A tiny random model calls no tools, so that a scripted server does."""
    function = {"name": "weather", "arguments": '{"city":"Rome"}'}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "a", "type": "function", "function": function}],
    }

    async def call(seen, writer):
        writer.write(answer({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}))

    running = start_guard(call, POLICY)
    tools = [{"type": "function", "function": WEATHER}]
    with openai_client(running) as client:
        said = client.chat.completions.create(model="tiny", messages=SEA, tools=tools, tool_choice="required")
        (made,) = said.choices[0].message.tool_calls
        assert (made.function.name, json.loads(made.function.arguments)) == ("weather", {"city": "Rome"})
        told = [*SEA, message, {"role": "tool", "tool_call_id": "a", "content": "Sunny."}]
        client.chat.completions.create(model="tiny", messages=told, tools=tools)
    first, second = (seen.json for seen in running.server.seen)
    assert (first["tools"], first["tool_choice"]) == (tools, "required")
    assert second["messages"] == told


def test_openai_embeds(start_guard, embedder):
    running = start_guard(policy=replace(POLICY, upstream=replace(Upstream(), url=embedder.url)))
    with openai_client(running) as client:
        made = client.embeddings.create(model="tiny", input=["the sea", "the mountains"])
        one = client.embeddings.create(model="tiny", input="the sea", encoding_format="float")
    assert len(made.data) == 2
    assert made.data[0].embedding == pytest.approx(one.data[0].embedding, abs=1e-3)
    assert made.usage.prompt_tokens > 0


def test_openai_streams_the_tool_calls_that_a_server_makes(start_guard):
    pieces = [{"index": 0, "id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}}]
    pieces += [{"index": 0, "function": {"arguments": part}} for part in ('{"city":', '"Rome"}')]

    async def call(seen, writer):
        chunks = [
            {"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]}
            for piece in pieces
        ]
        events = b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks)
        writer.write(answer(events + b"data: [DONE]\n\n", kind="text/event-stream"))

    tools = [{"type": "function", "function": WEATHER}]
    with openai_client(start_guard(call, POLICY)) as client:
        events = list(client.chat.completions.create(model="tiny", messages=SEA, tools=tools, stream=True))
    calls = [event.choices[0].delta.tool_calls[0].function for event in events]
    assert calls[0].name == "weather"
    assert json.loads("".join(part.arguments or "" for part in calls)) == {"city": "Rome"}


def ask_openai(client: openai.OpenAI, messages=SEA) -> None:
    client.chat.completions.create(model="tiny", messages=messages, max_tokens=2)


def test_openai_is_told_of_a_limit(guard):
    with openai_client(guard(ONCE)) as client:
        ask_openai(client)
        with pytest.raises(openai.RateLimitError) as caught:
            ask_openai(client)
    headers = caught.value.response.headers
    assert 50 < int(headers["retry-after"]) <= 60
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert re.fullmatch(r"(5\ds|1m0s)", headers["x-ratelimit-reset-requests"])
    assert (caught.value.type, caught.value.code) == ("requests", "rate_limit_exceeded")


def test_openai_is_told_of_a_limit_where_it_streams_embeds_or_lists(guard):
    with openai_client(guard(ONCE)) as client:
        ask_openai(client)
        for ask in (
            lambda: list(client.chat.completions.create(model="tiny", messages=SEA, stream=True)),
            lambda: client.embeddings.create(model="tiny", input="the sea"),
            lambda: client.responses.create(model="tiny", input="hi"),
            lambda: client.completions.create(model="tiny", prompt="hi"),
            client.models.list,
        ):
            with pytest.raises(openai.RateLimitError, match="at most 1 request in 60 seconds"):
                ask()


def test_openai_comes_back_when_it_was_told_to(guard, monkeypatch):
    """Left to retry, it waits as long as the guard says; here the place is free as soon as it waits."""
    running = guard(FULL)
    waits: list[float] = []
    with ExitStack() as busy:

        def wait(seconds: float) -> None:
            waits.append(seconds)
            busy.close()
            running.settled(2)  # the refused one, and the one whose client has left

        busy.enter_context(one_running(running))
        with openai.OpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key=KEY) as client:
            monkeypatch.setattr(time, "sleep", wait)
            ask_openai(client)
    assert [record.status for record in running.settled(3)] == [503, 200, 200]
    assert waits == [pytest.approx(round(waits[0]))]
    assert waits[0] >= 1


def test_openai_is_told_of_a_wrong_key(guard):
    with openai_client(guard(), "wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        ask_openai(client)
    assert caught.value.code == "invalid_api_key"


def test_openai_is_told_of_a_model_that_is_not_its_own(guard):
    with openai_client(guard(), NARROW_KEY) as client, pytest.raises(openai.PermissionDeniedError) as caught:
        ask_openai(client)
    assert caught.value.code == "forbidden"


def test_openai_is_told_of_a_body_that_is_too_long(guard):
    with openai_client(guard(SMALL)) as client, pytest.raises(openai.APIStatusError) as caught:
        ask_openai(client, LONG)
    assert caught.value.status_code == 413
    assert "10000 bytes" in caught.value.message


def test_openai_is_told_of_a_full_server(guard):
    running = guard(FULL)
    with openai_client(running) as client, one_running(running), pytest.raises(openai.InternalServerError) as caught:
        ask_openai(client)
    assert caught.value.status_code == 503
    assert caught.value.code == "overloaded"
    assert int(caught.value.response.headers["retry-after"]) >= 1


# anthropic


@contextmanager
def anthropic_client(guard: RunningGuard, key: str = KEY) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{guard.port}", api_key=key, max_retries=0) as client:
        yield client


def ask_anthropic(client: anthropic.Anthropic, messages=SEA) -> anthropic.types.Message:
    return client.messages.create(model="tiny", messages=messages, max_tokens=7)


def test_anthropic_gets_messages(guard):
    with anthropic_client(guard()) as client:
        said = ask_anthropic(client)
        assert client.messages.count_tokens(model="tiny", messages=SEA).input_tokens > 0
    assert said.content[0].text
    assert (said.usage.output_tokens, said.stop_reason) == (7, "max_tokens")


def test_anthropic_streams(guard):
    running = guard()
    with (
        anthropic_client(running) as client,
        client.messages.stream(model="tiny", messages=SEA, max_tokens=12, system="Be brief.") as stream,
    ):
        pieces = list(stream.text_stream)
        said = stream.get_final_message()
    assert len(pieces) >= 10
    assert said.content[0].text == "".join(pieces)
    assert said.usage.output_tokens == 12
    assert running.settled(1)[0].completion_tokens == 12


def test_anthropic_sends_tools_and_gets_the_calls_that_a_server_makes(guard, start_guard):
    tool = {"name": "weather", "description": "Tells the weather.", "input_schema": WEATHER["parameters"]}
    with anthropic_client(guard()) as client:
        assert client.messages.create(model="tiny", messages=SEA, max_tokens=7, tools=[tool]).usage.output_tokens == 7
    made = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}

    async def call(seen, writer):
        usage = {"input_tokens": 9, "output_tokens": 5}
        writer.write(answer({"id": "x", "type": "message", "role": "assistant", "model": "tiny", "content": [made],
                             "stop_reason": "tool_use", "usage": usage}))  # fmt: skip

    running = start_guard(call, POLICY)
    with anthropic_client(running) as client:
        said = client.messages.create(
            model="tiny", messages=SEA, max_tokens=7, tools=[tool], tool_choice={"type": "any"}
        )
        assert (said.content[0].name, said.content[0].input) == ("weather", {"city": "Rome"})
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny."}
        told = [*SEA, {"role": "assistant", "content": [made]}, {"role": "user", "content": [result]}]
        client.messages.create(model="tiny", messages=told, max_tokens=7, tools=[tool])
    first, second = (seen.json for seen in running.server.seen)
    assert (first["tools"], first["tool_choice"]) == ([tool], {"type": "any"})
    assert second["messages"] == told


def test_anthropic_is_told_of_a_limit_where_it_streams(guard):
    with anthropic_client(guard(ONCE)) as client:
        ask_anthropic(client)
        with (
            pytest.raises(anthropic.RateLimitError),
            client.messages.stream(model="tiny", messages=SEA, max_tokens=7) as stream,
        ):
            list(stream)


def test_anthropic_is_told_of_a_limit(guard):
    with anthropic_client(guard(ONCE)) as client:
        ask_anthropic(client)
        with pytest.raises(anthropic.RateLimitError) as caught:
            ask_anthropic(client)
    assert 50 < int(caught.value.response.headers["retry-after"]) <= 60
    assert caught.value.body["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize(
    ("policy", "key", "messages", "error", "status", "kind"),
    [
        (POLICY, "wrong", SEA, anthropic.AuthenticationError, 401, "authentication_error"),
        (POLICY, NARROW_KEY, SEA, anthropic.PermissionDeniedError, 403, "permission_error"),
        (SMALL, KEY, LONG, anthropic.RequestTooLargeError, 413, "request_too_large"),
    ],
)
def test_anthropic_is_told_why_it_is_refused(guard, policy, key, messages, error, status, kind):
    with anthropic_client(guard(policy), key) as client, pytest.raises(error) as caught:
        ask_anthropic(client, messages)
    assert caught.value.status_code == status
    assert caught.value.body["error"]["type"] == kind


def test_anthropic_is_told_of_a_full_server(guard):
    running = guard(FULL)
    with anthropic_client(running) as client, one_running(running), pytest.raises(anthropic.OverloadedError) as caught:
        ask_anthropic(client)
    assert caught.value.status_code == 529
    assert caught.value.body["error"]["type"] == "overloaded_error"
    assert int(caught.value.response.headers["retry-after"]) >= 1


# LangChain


@pytest.fixture
def chat_openai():
    """Build a `ChatOpenAI` that retries nothing."""
    from langchain_openai import ChatOpenAI  # noqa: PLC0415  # two seconds, which only these tests wait

    def build(guard: RunningGuard, key: str = KEY, **more):
        url = f"http://127.0.0.1:{guard.port}/v1"
        return ChatOpenAI(base_url=url, api_key=key, model="tiny", max_retries=0, max_tokens=12, **more)

    return build


def test_langchain_gets_answers_and_streams(guard, chat_openai):
    running = guard()
    model = chat_openai(running, stream_usage=True)
    said = model.invoke("Tell me of the sea.")
    assert said.content
    assert said.usage_metadata["output_tokens"] == 12
    pieces = list(model.stream("Tell me of the sea."))
    assert len([piece for piece in pieces if piece.content]) >= 10
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) == 12
    assert [(record.status, record.completion_tokens) for record in running.settled(2)] == [(200, 12), (200, 12)]


def test_langchain_sends_tools(guard, chat_openai):
    model = chat_openai(guard()).bind_tools([{"type": "function", "function": WEATHER}])
    assert model.invoke("Tell me of the sea.").response_metadata["finish_reason"] == "length"


def test_langchain_gets_the_tool_calls_that_a_server_makes(start_guard, chat_openai):
    function = {"name": "weather", "arguments": '{"city":"Rome"}'}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "a", "type": "function", "function": function}],
    }

    async def call(seen, writer):
        writer.write(answer({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}))

    model = chat_openai(start_guard(call, POLICY)).bind_tools([{"type": "function", "function": WEATHER}])
    (made,) = model.invoke("How is the weather in Rome?").tool_calls
    assert (made["name"], made["args"]) == ("weather", {"city": "Rome"})


def test_langchain_embeds_and_is_told_of_a_limit(start_guard, embedder):
    from langchain_openai import OpenAIEmbeddings  # noqa: PLC0415  # as above

    running = start_guard(policy=replace(ONCE, upstream=replace(Upstream(), url=embedder.url)))
    model = OpenAIEmbeddings(
        base_url=f"http://127.0.0.1:{running.port}/v1", api_key=KEY, model="tiny", max_retries=0,
        check_embedding_ctx_length=False,
    )  # fmt: skip
    vectors = model.embed_documents(["the sea", "the mountains"])
    assert len(vectors) == 2
    with pytest.raises(openai.RateLimitError, match="at most 1 request in 60 seconds"):
        model.embed_query("the sea")


def test_langchain_is_told_of_limits_and_refusals(guard, chat_openai):
    running = guard(ONCE)
    model = chat_openai(running)
    model.invoke("Tell me of the sea.")
    with pytest.raises(openai.RateLimitError) as caught:
        model.invoke("Tell me of the sea.")
    assert int(caught.value.response.headers["retry-after"]) > 50
    with pytest.raises(openai.RateLimitError):
        list(model.stream("Tell me of the sea."))
    with pytest.raises(openai.AuthenticationError):
        chat_openai(running, "wrong").invoke("Tell me of the sea.")
    with pytest.raises(openai.PermissionDeniedError):
        chat_openai(running, NARROW_KEY).invoke("Tell me of the sea.")


# curl


def curl(guard: RunningGuard, *more: str, path: str = "/v1/chat/completions", key: str = KEY, body=None):
    """Run curl; the answer's status, its headers and its body."""
    sent = json.dumps(body or {"messages": SEA, "max_tokens": 7})
    command = ["curl", "-q", "-sS", "-i", "--noproxy", "*", "--max-time", "30", *more]
    command += ["-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json", "--data-binary", "@-"]
    ran = subprocess.run(
        [*command, f"http://127.0.0.1:{guard.port}{path}"], input=sent.encode(), capture_output=True, check=True
    )
    head, _, text = ran.stdout.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), text


def test_curl_gets_answers_and_streams(guard):
    running = guard()
    status, headers, text = curl(running)
    assert (status, headers["x-corral-max-tokens"]) == (200, "7")
    assert json.loads(text)["usage"]["completion_tokens"] == 7
    status, headers, text = curl(running, "-N", body={"messages": SEA, "max_tokens": 7, "stream": True})
    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    assert text.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize("more", [["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"], ["--http1.0"]])
def test_curl_may_frame_its_body_as_it_likes(guard, more):
    status, _, text = curl(guard(), *more)
    assert status == 200
    assert json.loads(text)["usage"]["completion_tokens"] == 7


def test_curl_embeds_and_sends_tools(guard, start_guard, embedder):
    running = start_guard(policy=replace(POLICY, upstream=replace(Upstream(), url=embedder.url)))
    status, _, text = curl(running, path="/v1/embeddings", body={"input": ["the sea", "the mountains"]})
    assert (status, len(json.loads(text)["data"])) == (200, 2)
    tools = [{"type": "function", "function": WEATHER}]
    status, _, text = curl(guard(), body={"messages": SEA, "max_tokens": 7, "tools": tools})
    assert (status, json.loads(text)["usage"]["completion_tokens"]) == (200, 7)


def test_curl_is_told_of_a_limit_where_it_streams(guard):
    running = guard(ONCE)
    assert curl(running)[0] == 200
    status, headers, text = curl(running, "-N", body={"messages": SEA, "stream": True})
    assert (status, headers["content-type"]) == (429, "application/json")
    assert json.loads(text)["error"]["code"] == "rate_limit_exceeded"


def test_curl_is_told_of_a_limit(guard):
    running = guard(ONCE)
    assert curl(running)[0] == 200
    status, headers, text = curl(running)
    assert status == 429
    assert 50 < int(headers["retry-after"]) <= 60
    assert headers["ratelimit-policy"] == '"client";q=1;w=60'
    assert headers["ratelimit"] == f'"client";r=0;t={headers["retry-after"]}'
    assert json.loads(text)["error"]["violated-policies"] == ["client"]


@pytest.mark.parametrize(
    ("policy", "key", "messages", "status", "code"),
    [
        (POLICY, "wrong", SEA, 401, "invalid_api_key"),
        (POLICY, NARROW_KEY, SEA, 403, "forbidden"),
        (SMALL, KEY, LONG, 413, "payload_too_large"),
    ],
)
def test_curl_is_told_why_it_is_refused(guard, policy, key, messages, status, code):
    seen, headers, text = curl(guard(policy), key=key, body={"model": "tiny", "messages": messages, "max_tokens": 7})
    assert (seen, json.loads(text)["error"]["code"]) == (status, code)
    assert headers.get("www-authenticate", "").startswith("bearer" if status == 401 else "")
    assert "retry-after" not in headers


def test_curl_is_told_of_a_full_server(guard):
    running = guard(FULL)
    with one_running(running):
        status, headers, text = curl(running)
    assert (status, json.loads(text)["error"]["code"]) == (503, "overloaded")
    assert int(headers["retry-after"]) >= 1
