"""What an application's answer says of the tokens it used, read while the answer passes."""

from typing import Any

import orjson

from corral.dialects.model import Form, Route, RouteClass, Usage
from corral.dialects.streams import STREAM_TYPES, last_usage

_TAIL = 64 * 1024
"""How much of a stream's end is kept, in bytes: llama-server's last event repeats the prompt."""

_WHOLE = 1024 * 1024
"""The longest plain answer that is kept, in bytes, to read its usage from."""


class AnswerUsage:
    """Watches one answer; `sent` is how many bytes of its body have passed."""

    def __init__(self, route: Route) -> None:
        self._form: Form | None = None if route.kind is RouteClass.TOKENISE else route.form
        self._kept: list[bytes] = []
        self._size = 0
        self._stream = False
        self._watching = False
        self.sent = 0

    def began(self, status: int, content_type: bytes) -> None:
        """Take note of the answer's head."""
        self._stream = content_type.startswith(STREAM_TYPES)
        self._watching = status == 200 and self._form is not None

    def take(self, data: bytes) -> None:
        """Take note of a piece of the body: of a stream the tail is kept, of a plain answer the whole or nothing."""
        self.sent += len(data)
        if not self._watching or not data:
            return
        self._kept.append(data)
        self._size += len(data)
        if self._stream and self._size > 2 * _TAIL:
            tail = b"".join(self._kept)[-_TAIL:]
            self._kept, self._size = [tail], len(tail)
        elif not self._stream and self._size > _WHOLE:
            self._kept.clear()
            self._watching = False

    def usage(self) -> Usage | None:
        """Read the usage; None where the answer does not say."""
        if self._form is None or not self._kept:
            return None
        whole = b"".join(self._kept)
        if self._stream:
            return last_usage(self._form, whole[-_TAIL:])
        answer = read_json(whole)
        return self._form.usage(answer) if isinstance(answer, dict) else None


def read_json(body: bytes) -> Any:
    """Read a JSON value from the server; None where there is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
