"""OpenAI's chunks: those of `/v1/chat/completions`, and the older ones of `/v1/completions`."""

from typing import Any

from corral.dialects.endings.events import DONE, ENDS, MEDIA_TYPE, SPEAKS, event, last_data, objects
from corral.dialects.endings.model import Passed
from corral.dialects.errors import render
from corral.dialects.model import ErrorStyle, Problem

_ITS_OWN = ("id", "object", "created", "model", "system_fingerprint")
"""What all chunks of one stream have in common."""


class Chunks:
    """A stream of chunks. Each has `choices` of which one goes on, and the last one of a choice a `finish_reason`."""

    media_type: bytes = MEDIA_TYPE
    ends: tuple[bytes, ...] = ENDS
    speaks: bytes = SPEAKS

    def __init__(self, nothing: dict[str, Any], *, mark: bytes, empty: bytes, unmarked: int, leeway: int) -> None:
        """Describe a kind of chunk. `nothing` is what a choice has that goes on by nothing; `empty` is its value."""
        self._nothing = nothing
        self.marks: tuple[bytes, ...] = (mark,)
        self.unmarks: tuple[bytes, ...] = (mark + empty, mark + b" " + empty)
        self.unmarked = unmarked
        self.leeway = leeway

    def prompt_tokens(self, first: bytes) -> int | None:  # noqa: ARG002  # the protocol's
        """Say nothing: the prompt is counted at the end of a stream."""
        return None

    def ended(self, passed: Passed) -> bool:
        """Tell whether the stream is complete; see `StreamKind.ended`."""
        return last_data(passed.last) == b"[DONE]"

    def cut_off(self, passed: Passed) -> bytes:
        """End every choice that has not ended, for its length."""
        own: dict[str, Any] = {}
        open_choices: dict[int, bool] = {}
        for chunk in objects(passed.last):
            own = {name: chunk[name] for name in _ITS_OWN if name in chunk} or own
            choices = chunk.get("choices")
            for choice in choices if isinstance(choices, list) else ():
                if isinstance(choice, dict) and isinstance(index := choice.get("index", 0), int):
                    open_choices[index] = open_choices.get(index, True) and choice.get("finish_reason") is None
        ends = [
            event({**own, "choices": [{**self._nothing, "index": index, "finish_reason": "length"}]})
            for index, is_open in sorted(open_choices.items())
            if is_open
        ]
        return b"".join(ends) + DONE

    def failed(self, passed: Passed, problem: Problem, style: ErrorStyle) -> bytes:  # noqa: ARG002  # as above
        """Tell the error, which OpenAI's clients raise, and end."""
        return b"data: " + render(problem, style) + b"\n\n" + DONE


CHAT_CHUNKS = Chunks({"delta": {}, "logprobs": None}, mark=b'"delta":', empty=b"{}", unmarked=1, leeway=2)
TEXT_CHUNKS = Chunks({"text": "", "logprobs": None}, mark=b'"text":', empty=b'""', unmarked=0, leeway=1)
