"""Chats: OpenAI's `/v1/chat/completions`, its `/v1/responses`, and Anthropic's `/v1/messages`."""

from collections.abc import Mapping
from typing import Any

from corral.dialects.endings.chunks import CHAT_CHUNKS
from corral.dialects.endings.messages import MESSAGE_EVENTS
from corral.dialects.endings.model import StreamKind
from corral.dialects.endings.responses import RESPONSE_EVENTS
from corral.dialects.forms.fields import (
    NO_TEXT,
    TOKEN_CHARS,
    copies,
    count_others,
    count_text,
    flag,
    is_blank,
    maximum,
    model,
    reported,
    set_maximum,
)
from corral.dialects.model import Asked, BadRequest, Usage

_MAX_ROLE = 64

_AROUND_MESSAGE = 4 * TOKEN_CHARS
"""Characters that a message counts besides its own: templates write some tokens around each, even around none."""


_MESSAGE_INPUT = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class Chat:
    """A body with `messages`, and perhaps tools and more, all of which the model may read."""

    name = "chat"
    stream: StreamKind | None = CHAT_CHUNKS
    _maximum_name = "max_tokens"
    _counted: frozenset[str] = NO_TEXT | {"messages"}
    _also_speak: tuple[str, ...] = ("tools", "functions")

    def read(self, body: dict[str, Any]) -> Asked:
        """Read what is asked for; see `Form.read`."""
        chars, blank = self._count_messages(body)
        chars += count_others(body, self._counted)
        if blank:
            blank = all(is_blank(body.get(name)) for name in self._also_speak)
        return Asked(maximum(body), copies(body), 0, chars, flag(body, "stream"), model(body), blank)

    def _count_messages(self, body: dict[str, Any]) -> tuple[int, bool]:
        """Count all that the messages bring, and tell whether it is but blanks."""
        messages = body.get("messages")
        if type(messages) is not list or not messages:
            raise BadRequest("messages must be a list of at least one message.", "messages")
        chars = _AROUND_MESSAGE * len(messages)
        blank = True
        for message in messages:
            if type(message) is not dict or type(role := message.get("role")) is not str or len(role) > _MAX_ROLE:
                raise _bad_role()
            content = message.get("content")
            if type(content) is str:
                chars += len(role) + len(content)
                if blank and content and not content.isspace():
                    blank = False
                if len(message) == 2:
                    continue
            elif type(content) is list:
                chars += len(role) + count_text(content)
                blank = blank and is_blank(content)
            elif content is None and ("tool_calls" in message or "function_call" in message):
                chars += len(role)
            else:
                raise BadRequest("A message's content must be a string or a list of parts.", "messages")
            others = {name: value for name, value in message.items() if name != "role" and name != "content"}
            if others:
                chars += count_text(others)
                blank = blank and is_blank(others)
        return chars, blank

    def clamp(self, body: dict[str, Any], max_tokens: int) -> None:
        """Ask for at most `max_tokens`; see `Form.clamp`."""
        set_maximum(body, self._maximum_name, max_tokens)

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:
        """Read the usage; see `Form.usage`."""
        return reported(answer, ("prompt_tokens",), "completion_tokens")


def _bad_role() -> BadRequest:
    return BadRequest(f"Each message must be an object with a role of at most {_MAX_ROLE} characters.", "messages")


class Messages(Chat):
    """Anthropic's messages: the system prompt stands beside them."""

    name = "messages"
    stream: StreamKind | None = MESSAGE_EVENTS
    _also_speak: tuple[str, ...] = ("system", "tools")

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:
        """Read the usage: of an answer, or of the `message_start` and `message_delta` events of a stream."""
        message = answer.get("message")
        if type(message) is not dict:
            return reported(answer, _MESSAGE_INPUT, "output_tokens")
        begun = reported(message, _MESSAGE_INPUT, "output_tokens")
        # What is generated is not known when it begins, though a count stands there.
        return None if begun is None else Usage(begun.prompt_tokens, None, begun.compute_ms)


class Responses(Chat):
    """OpenAI's responses: an `input`, a string or a list of items, and `instructions`."""

    name = "responses"
    stream: StreamKind | None = RESPONSE_EVENTS
    _maximum_name = "max_output_tokens"
    _counted: frozenset[str] = NO_TEXT | {"input"}
    _also_speak: tuple[str, ...] = ("instructions", "tools")

    def _count_messages(self, body: dict[str, Any]) -> tuple[int, bool]:
        given = body.get("input")
        if type(given) is str:
            return len(given), is_blank(given)
        if type(given) is not list or not given or not all(type(item) is dict for item in given):
            raise BadRequest("input must be a string or a list of items.", "input")
        for item in given:
            role = item.get("role", "")
            if type(role) is not str or len(role) > _MAX_ROLE:
                raise _bad_role()
        return count_text(given) + _AROUND_MESSAGE * len(given), is_blank(given)

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:
        """Read the usage: of an answer, or of the last event of a stream, which holds the answer."""
        response = answer.get("response")
        return reported(response if type(response) is dict else answer, ("input_tokens",), "output_tokens")


CHAT = Chat()
MESSAGES = Messages()
RESPONSES = Responses()
