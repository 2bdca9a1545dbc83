"""Streams of events on their way: whole events alone pass, tokens are counted exactly, and every kind ends well."""

import json
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.dialects.endings.chunks import CHAT_CHUNKS, TEXT_CHUNKS
from corral.dialects.endings.lines import CHAT_LINES
from corral.dialects.endings.messages import MESSAGE_EVENTS
from corral.dialects.endings.native import NATIVE_EVENTS
from corral.dialects.endings.responses import RESPONSE_EVENTS
from corral.dialects.event_stream import EventStream
from corral.dialects.model import ErrorStyle

WORDS = ("the", ' "delta":', '"stop":false', "\n\n", '"content_block_delta"', '"text":', "sea\r\n\r\n")
"""What tokens may say; some look like what is counted."""


def data(value, name=""):
    line = f"event: {name}\n" if name else ""
    return f"{line}data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


def chat(words, end=True):
    own = {"created": 5, "id": "chatcmpl-1", "model": "tiny", "object": "chat.completion.chunk"}
    events = [
        data({"choices": [{"finish_reason": None, "index": 0, "delta": {"role": "assistant", "content": None}}], **own})
    ]
    events += [
        data({"choices": [{"finish_reason": None, "index": 0, "delta": {"content": word}}], **own}) for word in words
    ]
    if end:
        events += [data({"choices": [{"finish_reason": "stop", "index": 0, "delta": {}}], **own}), b"data: [DONE]\n\n"]
    return events


def text(words, end=True):
    own = {"created": 5, "model": "tiny", "object": "text_completion", "id": "cmpl-1"}
    events = [
        data({"choices": [{"text": word, "index": 0, "logprobs": None, "finish_reason": None}], **own})
        for word in words
    ]
    if end:
        events += [data({"choices": [{"text": "", "index": 0, "finish_reason": "stop"}], **own}), b"data: [DONE]\n\n"]
    return events


def native(words, end=True):
    events = [
        data(
            {
                "index": 0,
                "content": word,
                "tokens": [7],
                "stop": False,
                "id_slot": 1,
                "tokens_predicted": number,
                "tokens_evaluated": 9,
            }
        )
        for number, word in enumerate(words, 1)
    ]
    if end:
        events += [data({"index": 0, "content": "", "stop": True, "tokens_predicted": len(words), "stop_type": "eos"})]
    return events


def messages(words, end=True):
    usage = {"cache_read_input_tokens": 4, "input_tokens": 2, "output_tokens": 0}
    message = {
        "id": "msg-1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "tiny",
        "stop_reason": None,
        "usage": usage,
    }
    block = {"type": "text", "text": ""}
    events = [
        data({"type": "message_start", "message": message}, "message_start"),
        data({"type": "content_block_start", "index": 0, "content_block": block}, "content_block_start"),
    ]
    events += [
        data(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}},
            "content_block_delta",
        )
        for word in words
    ]
    if end:
        events += [
            data({"type": "content_block_stop", "index": 0}, "content_block_stop"),
            data(
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
                "message_delta",
            ),
            data({"type": "message_stop"}, "message_stop"),
        ]
    return events


def responses(words, end=True):
    def one(kind, **more):
        return data({"type": kind, **more}, kind)

    response = {"id": "resp-1", "object": "response", "status": "in_progress"}
    item = {"content": [], "id": "msg-1", "role": "assistant", "status": "in_progress", "type": "message"}
    events = [one("response.created", response=response), one("response.output_item.added", item=item)]
    events += [one("response.output_text.delta", item_id="msg-1", delta=word) for word in words]
    if end:
        done = {**item, "status": "completed", "content": [{"type": "output_text", "text": "".join(words)}]}
        events += [
            one("response.output_item.done", item=done),
            one("response.completed", response={**response, "status": "completed", "output": [done]}),
        ]
    return events


def lines(words, end=True):
    def line(**more):
        return json.dumps({"model": "tiny", "created_at": "2026", **more}, separators=(",", ":")).encode() + b"\n"

    made = [line(message={"role": "assistant", "content": word}, done=False) for word in words]
    return [*made, line(message={"role": "assistant", "content": ""}, done=True, done_reason="stop")] if end else made


KINDS = [
    pytest.param(CHAT_LINES, lines, id="lines"),
    pytest.param(CHAT_CHUNKS, chat, id="chat"),
    pytest.param(TEXT_CHUNKS, text, id="text"),
    pytest.param(NATIVE_EVENTS, native, id="native"),
    pytest.param(MESSAGE_EVENTS, messages, id="messages"),
    pytest.param(RESPONSE_EVENTS, responses, id="responses"),
]
STYLES = {CHAT_LINES: ErrorStyle.OLLAMA, MESSAGE_EVENTS: ErrorStyle.ANTHROPIC, NATIVE_EVENTS: ErrorStyle.LLAMACPP}


def parsed(events: bytes):
    return [json.loads(line.removeprefix("data: ")) for line in events.decode().split("\n") if line.endswith("}")]


@pytest.mark.parametrize(("kind", "write"), KINDS)
@given(
    words=st.lists(st.sampled_from(WORDS), max_size=20),
    cuts=st.lists(st.integers(0, 4000), max_size=30),
    crlf=st.booleans(),
)
def test_whole_events_pass_however_they_are_split_and_each_token_is_counted(kind, write, words, cuts, crlf):
    end = b"\r\n" if crlf else b"\n"
    sent = b"".join(write(words)).replace(b"\n", end)
    stream = EventStream(kind, 0, 1)
    passed = b""
    edges = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    for start, stop in pairwise(edges):
        given_out = stream.take(sent[start:stop])
        assert given_out == b"" or given_out.endswith((end + end, kind.ends[0]))
        passed += given_out
    assert stream.rest() == b""
    assert passed == sent
    assert stream.count() == len(words)
    assert not stream.over


@pytest.mark.parametrize(("kind", "write"), KINDS)
@given(cuts=st.lists(st.integers(0, 8000), max_size=20), most=st.integers(1, 30))
def test_no_more_tokens_pass_than_may_however_the_stream_is_split(kind, write, cuts, most):
    sent = b"".join(write(["sea"] * 40, end=False))
    stream = EventStream(kind, most, 1)
    passed = b""
    edges = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    for start, stop in pairwise(edges):
        passed += stream.take(sent[start:stop])
        if stream.over:
            break
    assert stream.over
    assert stream.count() == most + kind.leeway
    assert sent.startswith(passed)
    assert passed.endswith(kind.ends[0])


@pytest.mark.parametrize(("kind", "write"), KINDS)
@pytest.mark.parametrize("most", [1, 7, 40])
def test_a_stream_that_keeps_to_its_bound_is_never_cut(kind, write, most):
    stream = EventStream(kind, most, 1)
    events = write(["sea"] * most)
    assert b"".join(map(stream.take, events)) == b"".join(events)
    assert not stream.over
    assert stream.cut_off() == b""
    assert stream.failed("upstream_timeout", "Late.", STYLES.get(kind, ErrorStyle.OPENAI)) == b""


def cut(kind, events):
    stream = EventStream(kind, 0, 1)
    for event in events:
        stream.take(event)
    written = stream.cut_off()
    assert written.endswith(kind.ends[0])
    return written


def test_a_chat_is_cut_off_with_its_own_id():
    written = cut(CHAT_CHUNKS, chat(["the", "sea"], end=False))
    (last,) = parsed(written)
    assert (last["id"], last["model"], last["created"]) == ("chatcmpl-1", "tiny", 5)
    assert last["choices"] == [{"delta": {}, "logprobs": None, "index": 0, "finish_reason": "length"}]
    assert written.endswith(b"data: [DONE]\n\n")


def test_only_the_answers_that_go_on_are_ended():
    events = chat(["sea"], end=False)
    other = [event.replace(b'"index":0', b'"index":1') for event in events]
    finished = chat([])[1].replace(b'"index":0', b'"index":1')
    (last,) = parsed(cut(CHAT_CHUNKS, [*events, *other, finished]))
    assert last["choices"][0]["index"] == 0


def test_a_completion_is_cut_off():
    (last,) = parsed(cut(TEXT_CHUNKS, text(["sea"], end=False)))
    assert (last["id"], last["choices"]) == (
        "cmpl-1",
        [{"text": "", "logprobs": None, "index": 0, "finish_reason": "length"}],
    )


def test_a_native_stream_is_cut_off_at_its_limit():
    (last,) = parsed(cut(NATIVE_EVENTS, native(["the", "sea"], end=False)))
    assert (last["stop"], last["stop_type"], last["tokens_predicted"], last["content"]) == (True, "limit", 2, "")


def test_lines_are_cut_off_by_one_that_is_done():
    (last,) = parsed(cut(CHAT_LINES, lines(["the", "sea"], end=False)))
    assert (last["model"], last["done"], last["done_reason"], last["eval_count"]) == ("tiny", True, "length", 2)
    assert last["message"] == {"role": "assistant", "content": ""}


def test_a_message_is_cut_off_with_its_block():
    stop, told, end = parsed(cut(MESSAGE_EVENTS, messages(["the", "sea"], end=False)))
    assert stop == {"type": "content_block_stop", "index": 0}
    assert (told["delta"]["stop_reason"], told["usage"]["output_tokens"]) == ("max_tokens", 2)
    assert end == {"type": "message_stop"}


def test_a_message_between_its_blocks_has_none_to_stop():
    told, end = parsed(cut(MESSAGE_EVENTS, [*messages(["sea"], end=False), messages([])[-3]]))
    assert (told["type"], end["type"]) == ("message_delta", "message_stop")


def test_a_response_is_cut_off_as_incomplete():
    events = parsed(cut(RESPONSE_EVENTS, responses(["the", " sea"], end=False)))
    assert [event["type"] for event in events] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    response = events[-1]["response"]
    assert (response["id"], response["status"]) == ("resp-1", "incomplete")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["content"][0]["text"] == events[0]["text"] == "the sea"


def test_a_response_too_long_to_be_repeated_is_cut_off_all_the_same():
    (last,) = parsed(cut(RESPONSE_EVENTS, responses(["sea " * 500] * 100, end=False)))
    assert (last["type"], last["response"]["id"], last["response"]["output"]) == ("response.incomplete", "resp-1", [])


def test_numbered_events_are_numbered_on():
    numbered = [event.replace(b'{"type"', b'{"sequence_number":%d,"type"' % number)
                for number, event in enumerate(responses(["sea"], end=False))]  # fmt: skip
    assert [event["sequence_number"] for event in parsed(cut(RESPONSE_EVENTS, numbered))] == [3, 4, 5, 6]


@pytest.mark.parametrize(("kind", "write"), KINDS)
def test_the_prompt_is_known_where_the_first_events_tell(kind, write):
    stream = EventStream(kind, 0, 1)
    for event in write(["sea"], end=False):
        stream.take(event)
    assert stream.prompt_tokens() == {NATIVE_EVENTS: 9, MESSAGE_EVENTS: 6}.get(kind)


@pytest.mark.parametrize(("kind", "write"), KINDS)
def test_a_failure_is_told_in_the_streams_own_words(kind, write):
    stream = EventStream(kind, 0, 1)
    for event in write(["sea"], end=False):
        stream.take(event)
    stream.take(b'data: {"choices":[{"del')  # the beginning of an event, which never passes
    style = STYLES.get(kind, ErrorStyle.OPENAI)
    (told,) = parsed(stream.failed("upstream_unavailable", "The answer broke off.", style))
    assert told["error"] == "The answer broke off." or told["error"]["message"] == "The answer broke off."


def test_an_event_too_long_to_be_held_back_passes_and_is_not_ended_within():
    stream = EventStream(CHAT_CHUNKS, 0, 1)
    stream.take(b"".join(chat(["sea"], end=False)))
    long = b'data: {"choices":[{"delta":{"content":"' + b"x" * 300_000
    assert stream.take(long) == long
    assert stream.cut_off() is None
    assert stream.failed("upstream_unavailable", "Gone.", ErrorStyle.OPENAI) is None
    assert stream.take(b"x") == b"x"
    assert stream.take(b'"}}]}\n\ndata: ') == b'"}}]}\n\ndata: '[:-6]
    assert stream.cut_off().endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("looks", [1, 3, 7])
def test_no_more_tokens_pass_than_may_though_they_are_counted_meanwhile(looks):
    stream = EventStream(NATIVE_EVENTS, 20, 1)
    passed = b""
    for number in range(60):
        passed += stream.take(data({"content": f"w{number}", "stop": False}))
        if number % looks == 0:
            assert stream.count() <= 20
        if stream.over:
            break
    assert stream.over
    assert passed.count(b"content") <= 20 + NATIVE_EVENTS.leeway


def test_many_events_in_one_read_hold_nobody_up_where_they_are_too_many():
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    stream = EventStream(CHAT_CHUNKS, 18_000, 1)
    begun = time.perf_counter()
    passed = stream.take(event * 20_000)
    assert time.perf_counter() - begun < 2.0  # 0.05 s; seven were it searched anew for each event
    assert stream.over
    assert 18_000 <= len(passed) / len(event) <= 18_003
