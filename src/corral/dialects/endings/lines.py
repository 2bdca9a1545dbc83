"""Ollama's lines: an object each, the last of which is `done`."""

from typing import Any

import orjson

from corral.dialects.endings.events import values
from corral.dialects.endings.model import Passed
from corral.dialects.errors import render
from corral.dialects.model import ErrorStyle, Problem


class Lines:
    """The stream of `/api/chat` and `/api/generate`."""

    media_type: bytes = b"application/x-ndjson"
    ends: tuple[bytes, ...] = (b"\n",)
    speaks: bytes = b"{"
    marks: tuple[bytes, ...] = (b'"done":false', b'"done": false')
    unmarks: tuple[bytes, ...] = ()
    unmarked: int = 0
    leeway: int = 1

    def __init__(self, nothing: dict[str, Any]) -> None:
        """Describe a kind of line by what one has that brings `nothing`."""
        self._nothing = nothing

    def prompt_tokens(self, first: bytes) -> int | None:  # noqa: ARG002  # the protocol's
        """Say nothing: the prompt is counted at the end of a stream."""
        return None

    def ended(self, passed: Passed) -> bool:
        """Tell whether the stream is complete; see `StreamKind.ended`."""
        last = passed.last[passed.last.rfind(b"\n", 0, -1) + 1 :]
        return b'"done":true' in last or b'"done": true' in last

    def cut_off(self, passed: Passed) -> bytes:
        """Say that it is done, for its length."""
        own: dict[str, Any] = {}
        for found in values(passed.last.split(b"\n")):
            own = {name: found[name] for name in ("model", "created_at") if name in found} or own
        return (
            orjson.dumps({**own, **self._nothing, "done": True, "done_reason": "length", "eval_count": passed.tokens})
            + b"\n"
        )

    def failed(self, passed: Passed, problem: Problem, style: ErrorStyle) -> bytes:  # noqa: ARG002  # as above
        """Tell the error, which Ollama's clients raise."""
        return render(problem, style) + b"\n"


CHAT_LINES = Lines({"message": {"role": "assistant", "content": ""}})
GENERATE_LINES = Lines({"response": ""})
