"""llama-server's own events: each counts what it has generated, and the last one of an answer says `stop`."""

from typing import Any

from corral.dialects.endings.events import ENDS, MEDIA_TYPE, SPEAKS, event, objects
from corral.dialects.endings.model import Passed
from corral.dialects.errors import render
from corral.dialects.model import ErrorStyle, Problem

_KEPT = ("index", "id_slot", "tokens_predicted", "tokens_evaluated", "timings")


class NativeEvents:
    """The stream of `/completion` and `/infill`."""

    media_type: bytes = MEDIA_TYPE
    ends: tuple[bytes, ...] = ENDS
    speaks: bytes = SPEAKS
    marks: tuple[bytes, ...] = (b'"stop":false', b'"stop": false')
    unmarks: tuple[bytes, ...] = ()
    unmarked: int = 0
    leeway: int = 0

    def prompt_tokens(self, first: bytes) -> int | None:
        """Read how many tokens the prompts have, as far as their first events are there."""
        counted: dict[object, int] = {}
        for found in objects(first):
            evaluated = found.get("tokens_evaluated")
            if isinstance(evaluated, int):
                counted[found.get("index")] = evaluated
        return sum(counted.values()) if counted else None

    def ended(self, passed: Passed) -> bool:
        """Tell whether every answer has ended; see `StreamKind.ended`."""
        answers = _open(passed)
        return len(answers) >= (passed.answers if passed.whole else 1) and not any(answers.values())

    def cut_off(self, passed: Passed) -> bytes:
        """End every answer that has not ended, at its limit."""
        return b"".join(event(_end(last)) for _, last in sorted(_open(passed).items()) if last is not None)

    def failed(self, passed: Passed, problem: Problem, style: ErrorStyle) -> bytes:  # noqa: ARG002  # the protocol's
        """Tell the error as the server itself does."""
        return b"data: " + render(problem, style) + b"\n\n"


def _open(passed: Passed) -> dict[int, dict[str, Any] | None]:
    """Find the last event of each answer; None for those that have ended."""
    answers: dict[int, dict[str, Any] | None] = {}
    for found in objects(passed.last):
        index = found.get("index", 0)
        if "stop" in found and isinstance(index, int):
            answers[index] = None if found["stop"] is True else found
    return answers


def _end(last: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {name: last[name] for name in _KEPT if name in last}
    return {**kept, "content": "", "tokens": [], "stop": True, "truncated": False, "stop_type": "limit",
            "stopping_word": ""}  # fmt: skip


NATIVE_EVENTS = NativeEvents()
