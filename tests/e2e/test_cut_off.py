"""Streams of the real llama-server that the guard ends, read by the official clients; the server stops at once."""

import time
from dataclasses import replace

import anthropic
import httpx2
import openai
import pytest

from corral.policy.model import Bounds, Generation, LimitRule, Policy, Quota, Upstream

pytestmark = pytest.mark.e2e

OPEN = Policy(auth="none", generation=Generation(max_tokens=1_000_000), limits=())
SHORT = replace(Upstream(), max_answer=20_000)
SEA = [{"role": "user", "content": "Tell me of the sea."}]


@pytest.fixture
def cut_off(start_guard, llama_server):
    """Start a guard that cuts answers off; afterwards the server must be idle, though none of them had an end."""
    running = []

    def start(policy: Policy = OPEN, upstream: Upstream = SHORT):
        guard = start_guard(policy=replace(policy, upstream=replace(upstream, url=llama_server.url)))
        running.append(guard)
        return guard

    yield start
    until(lambda: not any(slot["is_processing"] for slot in httpx2.get(f"{llama_server.url}/slots").json()))
    for guard in running:
        assert {record.ending for record in guard.settled(1)} <= {"cut-off", "timed-out"}


def until(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def openai_client(guard) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{guard.port}/v1", api_key="none", max_retries=0)


def anthropic_client(guard) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=f"http://127.0.0.1:{guard.port}", api_key="none", max_retries=0)


def test_openai_reads_a_chat_to_its_end(cut_off):
    guard = cut_off()
    with openai_client(guard) as client:
        events = list(client.chat.completions.create(model="tiny", messages=SEA, stream=True))
        with client.chat.completions.stream(model="tiny", messages=SEA) as stream:
            *_, last = stream
    assert events[-1].choices[0].finish_reason == "length"
    assert {event.id for event in events} == {events[0].id}
    assert last.type == "content.done"
    written = len([event for event in events if event.choices[0].delta.content])
    assert guard.settled(2)[0].completion_tokens == written


def test_openai_reads_a_completion_to_its_end(cut_off):
    with openai_client(cut_off()) as client:
        events = list(client.completions.create(model="tiny", prompt="The sea", stream=True))
    assert events[-1].choices[0].finish_reason == "length"


def test_openai_reads_a_response_to_its_end(cut_off):
    with openai_client(cut_off()) as client:
        events = list(client.responses.create(model="tiny", input="The sea", stream=True))
    last = events[-1]
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
    assert last.response.incomplete_details.reason == "max_output_tokens"
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert last.response.output[0].content[0].text == said


def test_anthropic_reads_a_message_to_its_end(cut_off):
    guard = cut_off()
    with (
        anthropic_client(guard) as client,
        client.messages.stream(model="tiny", messages=SEA, max_tokens=1_000_000) as stream,
    ):
        pieces = list(stream.text_stream)
        said = stream.get_final_message()
    assert said.stop_reason == "max_tokens"
    assert said.content[0].text == "".join(pieces)
    assert said.usage.output_tokens == guard.settled(1)[0].completion_tokens == len(pieces)


def test_the_native_stream_ends_at_its_limit(cut_off):
    guard = cut_off()
    body = {"prompt": "The sea", "stream": True}
    with httpx2.stream("POST", f"http://127.0.0.1:{guard.port}/completion", json=body, timeout=60) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert '"stop":true' in lines[-1]
    assert '"stop_type":"limit"' in lines[-1]
    assert f'"tokens_predicted":{guard.settled(1)[0].completion_tokens}' in lines[-1]


def test_clients_read_to_its_end_what_is_out_of_time(cut_off):
    guard = cut_off(replace(OPEN, bounds=replace(Bounds(), total_timeout=3.0)), Upstream())
    with openai_client(guard) as client:
        events = list(client.chat.completions.create(model="tiny", messages=SEA, stream=True))
    assert events[-1].choices[0].finish_reason == "length"
    with (
        anthropic_client(guard) as client,
        client.messages.stream(model="tiny", messages=SEA, max_tokens=1_000_000) as stream,
    ):
        assert stream.get_final_message().stop_reason == "max_tokens"
    assert [record.ending for record in guard.settled(2)] == ["timed-out", "timed-out"]


def test_a_prompt_that_takes_the_whole_quota_leaves_less_for_the_answer(cut_off):
    """The tiny model needs a token a letter, so that each estimate is far too low."""
    rule = LimitRule(name="tokens", quota=Quota(150, 3600.0, "tokens"), algorithm="window")
    guard = cut_off(replace(OPEN, limits=(rule,)), Upstream())
    with anthropic_client(guard) as client:
        events = list(client.messages.create(model="tiny", messages=SEA, max_tokens=100, stream=True))
    assert events[-1].type == "message_stop"
    record = guard.settled(1)[0]
    assert record.prompt_tokens > 50
    assert record.completion_tokens < 100
    assert record.prompt_tokens + record.completion_tokens <= 151
