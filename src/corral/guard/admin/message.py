"""Requests to the admin listener and its answers, as plain values. Errors are RFC 9457's application/problem+json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import orjson

JSON = "application/json"
PROBLEM = "application/problem+json"

REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request, without its body, which says nothing here. `peer` is the address of who asks, as counted.

    Names of `head` are in small letters; of a header that came twice the last is kept.
    """

    method: str
    path: str
    query: str
    head: Mapping[bytes, bytes]
    peer: str

    def parameters(self, *known: str) -> dict[str, str]:
        """Read the query string.

        Raises:
            BadQueryError: it has a parameter that is not `known` here, or one twice.

        """
        found: dict[str, str] = {}
        try:
            pairs = parse_qsl(self.query, keep_blank_values=True, strict_parsing=bool(self.query), max_num_fields=16)
        except ValueError:
            raise BadQueryError("The query string cannot be read: write it as NAME=VALUE&NAME=VALUE.") from None
        for name, value in pairs:
            if name not in known:
                here = f"Known here: {', '.join(known)}." if known else "There are none here."
                raise BadQueryError(f"There is no such parameter as {name[:64]!r}. {here}")
            if name in found:
                raise BadQueryError(f"The parameter {name!r} is given twice.")
            found[name] = value
        return found


class BadQueryError(Exception):
    """A query string that says nothing, or too much; the message says what to write."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, whole."""

    status: int
    body: bytes
    media_type: str = JSON
    headers: Sequence[tuple[str, str]] = field(default=())


def answer_json(value: Any) -> Answer:
    """Answer 200 with `value`."""
    return Answer(200, orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))


def problem(status: int, detail: str, headers: Sequence[tuple[str, str]] = (), **more: object) -> Answer:
    """Answer an error: its status, and in `detail` what is wrong and what to do instead."""
    value = {"type": "about:blank", "title": REASONS[status], "status": status, "detail": detail, **more}
    return Answer(status, orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE), PROBLEM, headers)
