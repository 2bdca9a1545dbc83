"""Chats: OpenAI's `/v1/chat/completions`, its `/v1/responses`, and Anthropic's `/v1/messages`."""

from collections.abc import Mapping
from typing import Any

from corral.dialects.forms.fields import copies, count_text, flag, maximum, model, reported, set_maximum
from corral.dialects.model import Asked, BadRequest, Usage


class Chat:
    """A body with `messages`, and perhaps tools, all of which the model reads."""

    name = "chat"
    _maximum_name = "max_tokens"
    _also_read: tuple[str, ...] = ("tools", "functions")

    def read(self, body: dict[str, Any]) -> Asked:
        """Read what is asked for; see `Form.read`."""
        chars = self._count_messages(body)
        for name in self._also_read:
            if name in body:
                chars += count_text(body[name])
        return Asked(maximum(body), copies(body), 0, chars, flag(body, "stream"), model(body))

    def _count_messages(self, body: dict[str, Any]) -> int:
        messages = body.get("messages")
        if type(messages) is not list or not messages:
            raise BadRequest("messages must be a list of at least one message.", "messages")
        chars = 0
        for message in messages:
            if type(message) is not dict or type(message.get("role")) is not str:
                raise BadRequest("Each message must be an object with a role.", "messages")
            content = message.get("content")
            if type(content) is str:
                chars += len(content) if content.strip() else 0
            elif type(content) is list:
                chars += count_text(content)
            elif content is None and ("tool_calls" in message or "function_call" in message):
                pass
            else:
                raise BadRequest("A message's content must be a string or a list of parts.", "messages")
            if len(message) > 2:
                chars += sum(count_text(value) for name, value in message.items() if name not in _COUNTED)
        return chars

    def clamp(self, body: dict[str, Any], max_tokens: int) -> None:
        """Ask for at most `max_tokens`; see `Form.clamp`."""
        set_maximum(body, self._maximum_name, max_tokens)

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:
        """Read the usage; see `Form.usage`."""
        return reported(answer, ("prompt_tokens",), "completion_tokens")


_COUNTED = ("role", "content")


class Messages(Chat):
    """Anthropic's messages: the system prompt stands beside them."""

    name = "messages"
    _also_read: tuple[str, ...] = ("system", "tools")

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:
        """Read the usage: of an answer, or of the `message_start` and `message_delta` events of a stream."""
        message = answer.get("message")
        inner = message if type(message) is dict else answer
        return reported(
            inner, ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"), "output_tokens"
        )


class Responses(Chat):
    """OpenAI's responses: an `input`, a string or a list of items, and `instructions`."""

    name = "responses"
    _maximum_name = "max_output_tokens"
    _also_read: tuple[str, ...] = ("instructions", "tools")

    def _count_messages(self, body: dict[str, Any]) -> int:
        given = body.get("input")
        if type(given) is str or (type(given) is list and given and all(type(item) is dict for item in given)):
            return count_text(given)
        raise BadRequest("input must be a string or a list of items.", "input")

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:
        """Read the usage: of an answer, or of the last event of a stream, which holds the answer."""
        response = answer.get("response")
        return reported(response if type(response) is dict else answer, ("input_tokens",), "output_tokens")


CHAT = Chat()
MESSAGES = Messages()
RESPONSES = Responses()
