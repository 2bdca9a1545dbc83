"""Prompts counted by the real llama-server before they run: as many tokens as it reports in the end."""

from dataclasses import replace

import httpx2
import pytest

from corral.policy.model import Generation, LimitRule, Policy, Quota, Upstream

pytestmark = pytest.mark.e2e

TALK = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "Tell me of the sea: Übermut, 漢字, 🌊 and 1234567."},
]
TOOL = {
    "name": "look",
    "description": "Look at a place",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CHAT_TOOL = {"type": "function", "function": TOOL}
MESSAGES_TOOL = {"name": "look", "description": "Look", "input_schema": TOOL["parameters"]}

ASKED = {
    "chat": ("/v1/chat/completions", {"messages": TALK}),
    "chat with tools": ("/v1/chat/completions", {"messages": TALK, "tools": [CHAT_TOOL]}),
    "chat, sampled": ("/chat/completions", {"messages": TALK, "temperature": 0.3, "seed": 7}),
    "completion": ("/v1/completions", {"prompt": "Once upon a time in 漢字"}),
    "completion of a list": ("/v1/completions", {"prompt": ["<s>Once upon"]}),
    "completion of tokens": ("/v1/completions", {"prompt": [5, 6, 7, 8]}),
    "native": ("/completion", {"prompt": "Once upon a time"}),
    "native of tokens and texts": ("/completion", {"prompt": [5, "upon a time", 7]}),
    "responses": ("/v1/responses", {"input": "Tell me of the sea.", "instructions": "Be terse."}),
    "responses with tools": ("/v1/responses", {"input": "The sea?", "tools": [{"type": "function", **TOOL}]}),
    "messages": ("/v1/messages", {"system": "Be terse.", "messages": TALK[1:]}),
    "messages with tools": ("/v1/messages", {"messages": TALK[1:], "tools": [MESSAGES_TOOL]}),
}


@pytest.fixture
def guard(start_guard, llama_server):
    rule = LimitRule(name="exact", quota=Quota(100_000, 3600.0, "tokens"), algorithm="window", exact=True)
    policy = Policy(auth="none", limits=(rule,), generation=Generation(max_tokens=4))
    return start_guard(policy=replace(policy, upstream=replace(Upstream(), url=llama_server.url)))


@pytest.mark.parametrize("name", ASKED)
def test_a_prompt_is_counted_as_the_server_reports_it_in_the_end(guard, name):
    path, body = ASKED[name]
    for asked in (body, {**body, "stream": True}):
        said = httpx2.post(f"http://127.0.0.1:{guard.port}{path}", json=asked, timeout=60)
        assert said.status_code == 200, said.text
    reported = guard.settled(2)[0].prompt_tokens
    assert reported > 0
    counting = guard.guard._core.counting
    assert {tokens for tokens, _ in counting._known.values()} == {reported}
    assert counting.outcomes["counted"] + counting.outcomes["known"] == 2
