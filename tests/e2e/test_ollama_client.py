"""Ollama's own client, unmodified, in front of the guard and a server that keeps to Ollama's documented wire format."""

import os
from dataclasses import replace

import ollama
import openai
import pytest

from corral.policy.model import Generation, LimitRule, Policy, Quota, Routes, Upstream
from running_guard import answer, api_key
from scripted_ollama import MODEL, ScriptedOllama

KEY, ADMIN_KEY = "the-key-of-alice", "the-key-of-root"
POLICY = Policy(
    auth="keys",
    keys=(api_key("alice", KEY), api_key("root", ADMIN_KEY, admin=True)),
    limits=(),
    upstream=replace(Upstream(), dialect="ollama"),
    generation=Generation(max_tokens=40),
)
SEA = [{"role": "user", "content": "Tell me of the sea."}]


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch):
    """Let the client find no key and no address in the environment."""
    for name in list(os.environ):
        if name.startswith("OLLAMA_"):
            monkeypatch.delenv(name)


@pytest.fixture
def start(start_guard):
    """Start a guard; the client for it, the guard, and the server behind it."""
    clients: list[ollama.Client] = []

    def up(policy: Policy = POLICY, server: ScriptedOllama | None = None, key: str = KEY):
        server = server or ScriptedOllama()
        guard = start_guard(server, policy)
        headers = {"Authorization": f"Bearer {key}"}
        clients.append(ollama.Client(f"http://127.0.0.1:{guard.port}", headers=headers, trust_env=False))
        return clients[-1], guard, server

    yield up
    for client in clients:
        client.close()


def test_it_chats(start):
    client, guard, server = start()
    said = client.chat(MODEL, SEA, options={"num_predict": 7, "temperature": 0.5, "num_ctx": 10**6}, keep_alive=-1)
    assert said.message.content == "word " * 7
    assert (said.done, said.eval_count, said.prompt_eval_count) == (True, 7, 11)
    (body,) = server.bodies
    assert body["options"] == {"num_predict": 7, "temperature": 0.5}
    assert "keep_alive" not in body
    record = guard.settled(1)[0]
    assert (record.route, record.stream, record.prompt_tokens, record.completion_tokens) == (
        "ollama-chat",
        False,
        11,
        7,
    )
    assert record.compute_ms == pytest.approx(6.5)


def test_it_streams(start):
    client, guard, _ = start()
    pieces = list(client.chat(MODEL, SEA, stream=True, options={"num_predict": 12}))
    assert [piece.message.content for piece in pieces] == ["word "] * 12 + [""]
    assert pieces[-1].eval_count == 12
    generated = list(client.generate(MODEL, "Tell me of the sea.", stream=True, options={"num_predict": 5}))
    assert "".join(piece.response for piece in generated) == "word " * 5
    records = guard.settled(2)
    assert [(record.stream, record.completion_tokens) for record in records] == [(True, 12), (True, 5)]


@pytest.mark.parametrize("asked", [None, 0, -1, -2, 10**6])
def test_it_gets_no_more_than_the_policy_allows(start, asked):
    client, _, server = start()
    options = None if asked is None else {"num_predict": asked}
    assert client.chat(MODEL, SEA, options=options).eval_count == 40
    assert client.generate(MODEL, "hi", options=options).eval_count == 40
    assert len(list(client.generate(MODEL, "hi", options=options, stream=True))) == 41
    assert [body["options"]["num_predict"] for body in server.bodies] == [40] * 3


def test_it_generates_raw_and_with_context_and_in_formats(start):
    client, _, server = start()
    first = client.generate(MODEL, "hi", system="Be brief.", format="json", think=False)
    client.generate(MODEL, "more", context=first.context)
    client.generate(
        MODEL, "hi", raw=True, suffix="!", format={"type": "object", "properties": {"a": {"type": "string"}}}
    )
    assert [body.get("format") for body in server.bodies][:2] == ["json", None]
    assert server.bodies[1]["context"] == list(first.context)
    assert (server.bodies[2]["raw"], server.bodies[2]["suffix"]) == (True, "!")


def test_it_calls_tools(start):
    def weather(city: str) -> str:
        """Tell the weather.

        Args:
            city: Where.

        Returns:
            The weather.

        """
        return f"Sunny in {city}."

    server = ScriptedOllama(tool={"name": "weather", "arguments": {"city": "Rome"}})
    client, _, _ = start(server=server)
    said = client.chat(MODEL, SEA, tools=[weather])
    (call,) = said.message.tool_calls
    assert weather(**call.function.arguments) == "Sunny in Rome."
    result = {"role": "tool", "content": weather(**call.function.arguments), "tool_name": "weather"}
    client.chat(MODEL, [*SEA, said.message, result], tools=[weather])
    first, second = server.bodies
    assert first["tools"][0]["function"]["name"] == "weather"
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "tool"]
    assert second["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"city": "Rome"}
    streamed = list(client.chat(MODEL, SEA, tools=[weather], stream=True))
    assert streamed[0].message.tool_calls[0].function.name == "weather"


def test_it_embeds(start):
    client, guard, _ = start()
    made = client.embed(MODEL, ["the sea", "the mountains"])
    assert [list(vector) for vector in made.embeddings] == [[0.6, 0.8]] * 2
    assert list(client.embeddings(MODEL, "the sea").embedding) == [0.6, 0.8]
    first, second = guard.settled(2)
    assert (first.prompt_tokens, first.completion_tokens, first.compute_ms) == (6, 0, pytest.approx(7.0))
    assert second.prompt_tokens == -1


def test_it_lists_and_shows_models(start):
    client, _, server = start()
    assert [model.model for model in client.list().models] == [MODEL]
    shown = client.show(MODEL)
    assert shown.modelinfo["llama.context_length"] == 4096
    assert server.bodies == [{"model": MODEL}]


def test_only_admins_are_told_what_is_loaded(start):
    client, _, _ = start()
    with pytest.raises(ollama.ResponseError, match="admin key") as caught:
        client.ps()
    assert caught.value.status_code == 403
    admin, _, _ = start(key=ADMIN_KEY)
    assert [model.model for model in admin.ps().models] == [MODEL]


MANAGE = {
    "pull": lambda client: client.pull("tiny"),
    "push": lambda client: client.push("tiny"),
    "create": lambda client: client.create("other", from_="tiny", template="{{ .Prompt }}"),
    "copy": lambda client: client.copy("tiny", "other"),
    "delete": lambda client: client.delete("tiny"),
    "blob": lambda client: client.create_blob(__file__),
}


@pytest.mark.parametrize("name", MANAGE)
def test_it_cannot_change_the_server(start, name):
    for key in (KEY, ADMIN_KEY):
        client, guard, server = start(key=key)
        with pytest.raises(ollama.ResponseError) as caught:
            MANAGE[name](client)
        assert caught.value.status_code == (404 if name == "blob" else 403)
        assert guard.server.seen == []


def test_an_admin_changes_the_server_where_the_policy_says_so(start_guard):
    async def done(seen, writer):
        writer.write(answer({"status": "success"}))

    guard = start_guard(done, replace(POLICY, routes=Routes(management="admin")))
    with ollama.Client(f"http://127.0.0.1:{guard.port}", headers={"X-Api-Key": ADMIN_KEY}, trust_env=False) as client:
        for name in ("pull", "create", "copy", "delete"):
            MANAGE[name](client)
    bodies = [seen.json for seen in guard.server.seen]
    assert [seen.line.split()[0] for seen in guard.server.seen] == ["POST", "POST", "POST", "DELETE"]
    assert (bodies[0]["model"], bodies[1]["template"], bodies[2]["destination"]) == ("tiny", "{{ .Prompt }}", "other")


def test_it_cannot_unload_or_pin_a_model(start):
    client, guard, server = start()
    with pytest.raises(ollama.ResponseError, match="empty") as caught:
        client.generate(MODEL, keep_alive=0)
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="messages"):
        client.chat(MODEL, [], keep_alive=0)
    assert guard.server.seen == []


def test_it_is_told_of_a_limit(start):
    client, _, _ = start(replace(POLICY, limits=(LimitRule(name="client", quota=Quota(1, 60.0)),)))
    client.chat(MODEL, SEA)
    for ask in (
        lambda: client.chat(MODEL, SEA),
        lambda: list(client.chat(MODEL, SEA, stream=True)),
        lambda: client.generate(MODEL, "hi"),
        lambda: client.embed(MODEL, "hi"),
        client.list,
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            ask()
        assert caught.value.status_code == 429
        assert caught.value.error.startswith("Rate limit reached for this client: at most 1 request in 60 seconds")


def test_it_is_told_of_a_token_limit(start):
    limits = (LimitRule(name="tokens", quota=Quota(100, 3600.0, "tokens")),)
    client, guard, _ = start(replace(POLICY, limits=limits))
    client.chat(MODEL, SEA, options={"num_predict": 40})
    guard.settled(1)
    with pytest.raises(ollama.ResponseError, match="Limit 100, Used 51") as caught:
        client.chat(MODEL, SEA, options={"num_predict": 40})
    assert caught.value.status_code == 429


def test_it_is_told_of_a_wrong_key_and_of_a_model_that_is_not_there(start):
    client, _, _ = start(key="wrong")
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat(MODEL, SEA)
    assert caught.value.status_code == 401
    client, _, _ = start()
    with pytest.raises(ollama.ResponseError, match="try pulling it first") as caught:
        client.chat("another", SEA)
    assert caught.value.status_code == 404


def test_a_client_that_leaves_cancels_the_server(start):
    client, guard, _ = start(replace(POLICY, generation=Generation(max_tokens=100_000)), ScriptedOllama(pause=0.001))
    pieces = client.chat(MODEL, SEA, stream=True)
    next(pieces)
    pieces.close()
    assert guard.server.gone.wait(10)
    assert guard.settled(1)[0].ending == "client-left"


def test_openais_client_chats_with_it(start):
    _, guard, server = start()
    with openai.OpenAI(base_url=f"http://127.0.0.1:{guard.port}/v1", api_key=KEY, max_retries=0) as client:
        said = client.chat.completions.create(model=MODEL, messages=SEA, max_completion_tokens=9)
    assert said.usage.completion_tokens == 9
    assert server.bodies[0]["max_tokens"] == 9


def test_the_guard_answers_for_the_servers_health(start):
    _, guard, _ = start()
    for line in ("GET / HTTP/1.1", "HEAD / HTTP/1.1", "GET /health HTTP/1.1"):
        answered = guard.send(f"{line}\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        assert answered.startswith(b"HTTP/1.1 200 OK"), answered
    assert {seen.line for seen in guard.server.seen} <= {"GET / HTTP/1.1"}, "its own health checks"
