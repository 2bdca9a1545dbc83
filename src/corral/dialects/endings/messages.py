"""Anthropic's events: a message of blocks, each started, continued and stopped."""

from typing import Any

from corral.dialects.endings.events import ENDS, MEDIA_TYPE, SPEAKS, event, last_data, objects
from corral.dialects.endings.model import Passed
from corral.dialects.errors import render
from corral.dialects.model import ErrorStyle, Problem

_INPUT = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class MessageEvents:
    """The stream of `/v1/messages`."""

    media_type: bytes = MEDIA_TYPE
    ends: tuple[bytes, ...] = ENDS
    speaks: bytes = SPEAKS
    marks: tuple[bytes, ...] = (b'"content_block_delta"',)
    unmarks: tuple[bytes, ...] = ()
    unmarked: int = 0
    leeway: int = 1

    def prompt_tokens(self, first: bytes) -> int | None:
        """Read how many tokens the prompt has from `message_start`."""
        for found in objects(first):
            message = found.get("message")
            usage = message.get("usage") if isinstance(message, dict) else None
            if isinstance(usage, dict):
                counts = [usage[name] for name in _INPUT if isinstance(usage.get(name), int)]
                return sum(counts) if counts else None
        return None

    def ended(self, passed: Passed) -> bool:
        """Tell whether the stream is complete; see `StreamKind.ended`."""
        return b'"message_stop"' in last_data(passed.last)

    def cut_off(self, passed: Passed) -> bytes:
        """Stop the block that is open, and then the message, for its length."""
        open_block: int | None = None
        told = False
        for found in objects(passed.last):
            kind = found.get("type")
            if kind in ("content_block_start", "content_block_delta"):
                index = found.get("index")
                open_block = index if isinstance(index, int) else 0
            elif kind == "content_block_stop":
                open_block = None
            elif kind == "message_delta":
                told = True
        ends = b""
        if open_block is not None:
            ends = event({"type": "content_block_stop", "index": open_block}, "content_block_stop")
        if not told:
            delta = {"stop_reason": "max_tokens", "stop_sequence": None}
            usage: dict[str, Any] = {"output_tokens": passed.tokens}
            ends += event({"type": "message_delta", "delta": delta, "usage": usage}, "message_delta")
        return ends + event({"type": "message_stop"}, "message_stop")

    def failed(self, passed: Passed, problem: Problem, style: ErrorStyle) -> bytes:  # noqa: ARG002  # the protocol's
        """Tell the error, which Anthropic's clients raise."""
        return b"event: error\ndata: " + render(problem, style) + b"\n\n"


MESSAGE_EVENTS = MessageEvents()
