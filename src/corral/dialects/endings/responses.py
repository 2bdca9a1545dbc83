"""OpenAI's events of `/v1/responses`: a response of items, each added, continued and done."""

from typing import Any

import orjson

from corral.dialects.endings.events import ENDS, MEDIA_TYPE, SPEAKS, event, last_data, objects
from corral.dialects.endings.model import Passed
from corral.dialects.errors import render
from corral.dialects.model import ErrorStyle, Problem

_LAST = (b'"response.completed"', b'"response.incomplete"', b'"response.failed"')


class ResponseEvents:
    """The stream of `/v1/responses`."""

    media_type: bytes = MEDIA_TYPE
    ends: tuple[bytes, ...] = ENDS
    speaks: bytes = SPEAKS
    marks: tuple[bytes, ...] = (b'"delta":',)
    unmarks: tuple[bytes, ...] = ()
    unmarked: int = 0
    leeway: int = 1

    def prompt_tokens(self, first: bytes) -> int | None:  # noqa: ARG002  # the protocol's
        """Say nothing: the prompt is counted at the end of a stream."""
        return None

    def ended(self, passed: Passed) -> bool:
        """Tell whether the stream is complete; see `StreamKind.ended`."""
        # The last event repeats the whole answer, so that its end may be far from its beginning.
        data = passed.last[passed.last.rfind(b"data:") :] if b"data:" in passed.last else last_data(passed.last)
        return any(mark in data for mark in _LAST)

    def cut_off(self, passed: Passed) -> bytes:
        """End the items that are open, and the response as incomplete for its length.

        What the items say is repeated in the end, as a server does, unless so much has passed that it is not there.
        """
        response: dict[str, Any] = {}
        for found in objects(passed.first):
            if isinstance(found.get("response"), dict):
                response = found["response"]
                break
        number: int | None = None
        items = _Items()
        for found in objects(passed.last):
            items.take(found)
            number = found["sequence_number"] if isinstance(found.get("sequence_number"), int) else number
        ends = items.ends() if passed.whole else []
        incomplete = {
            **response,
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": items.done() if passed.whole else [],
        }
        ends.append({"type": "response.incomplete", "response": incomplete})
        written = b""
        for end in ends:
            if number is not None:
                number += 1
                end["sequence_number"] = number
            written += event(end, end["type"])
        return written

    def failed(self, passed: Passed, problem: Problem, style: ErrorStyle) -> bytes:
        """Tell the error: by the members that the API has, and by the one that OpenAI's clients raise."""
        error = orjson.loads(render(problem, style))["error"]
        told = {"type": "error", "code": error.get("code"), "message": error["message"], "param": None, "error": error}
        numbers = [found["sequence_number"] for found in objects(passed.last) if "sequence_number" in found]
        if numbers and isinstance(numbers[-1], int):
            told["sequence_number"] = numbers[-1] + 1
        return event(told, "error")


class _Items:
    """What the items of a response have said so far."""

    def __init__(self) -> None:
        self._items: dict[object, dict[str, Any]] = {}
        self._indices: dict[object, object] = {}
        self._texts: dict[object, str] = {}
        self._done: set[object] = set()
        self._last: object = None

    def take(self, found: dict[str, Any]) -> None:
        """Take note of an event."""
        item = found.get("item")
        if isinstance(item, dict):
            self._last = item.get("id")
            self._items[self._last] = item
            self._indices[self._last] = found.get("output_index")
            if found.get("type") == "response.output_item.done":
                self._done.add(self._last)
        elif found.get("type") == "response.output_text.delta" and isinstance(found.get("delta"), str):
            name = found.get("item_id", self._last)
            self._texts[name] = self._texts.get(name, "") + found["delta"]

    def ends(self) -> list[dict[str, Any]]:
        """Write what ends each message that is open."""
        ends: list[dict[str, Any]] = []
        for name, item in self._items.items():
            if name in self._done or item.get("type") != "message":
                continue
            index = self._indices[name]
            place = {"item_id": name, "content_index": 0}
            if index is not None:
                place["output_index"] = index
            whole = self._whole(name)
            if name in self._texts:
                ends += [
                    {"type": "response.output_text.done", **place, "text": self._texts[name], "logprobs": []},
                    {"type": "response.content_part.done", **place, "part": whole["content"][0]},
                ]
            end = {"type": "response.output_item.done", "item": whole}
            ends.append(end if index is None else {**end, "output_index": index})
        return ends

    def done(self) -> list[dict[str, Any]]:
        """Write the items as the response has them in the end."""
        return [self._whole(name) for name in self._items]

    def _whole(self, name: object) -> dict[str, Any]:
        item = self._items[name]
        if name in self._done:
            return item
        whole = {**item, "status": "incomplete"}
        if item.get("type") == "message":
            text = self._texts.get(name)
            part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
            whole["content"] = [] if text is None else [part]
        return whole


RESPONSE_EVENTS = ResponseEvents()
