"""What a kind of stream is: which of its events bring tokens, and how it is ended early so that clients can tell."""

from typing import NamedTuple, Protocol

from corral.dialects.errors import status_for
from corral.dialects.model import ErrorStyle, Problem


class Passed(NamedTuple):
    """What of a stream has reached the client: whole events alone.

    `first` is its beginning and `last` its end, each a few kB or more; where `whole`, `last` is all of it. `tokens`
    says how many tokens have passed, and `answers` how many answers were asked for.
    """

    first: bytes
    last: bytes
    tokens: int
    answers: int
    whole: bool


class StreamKind(Protocol):
    """One kind of stream, of server-sent events or of lines. Stateless; shared by all streams of its kind.

    `media_type` is how the content type begins; `ends` are the ways in which an event ends, the usual one first;
    `speaks` is what an event has somewhere unless it is a mere sign of life.

    Tokens are counted by what the JSON of an event has at its surface: a mark is a member's name or value with its
    quotes, which cannot stand inside of a string, where quotes are escaped. `marks` each stand for a token, and
    `unmarks` for a mark that brought none; `unmarked` is how many marks of each answer bring none besides. `leeway` ≥ 0
    is how far the count of an answer may be off.
    """

    media_type: bytes
    ends: tuple[bytes, ...]
    speaks: bytes
    marks: tuple[bytes, ...]
    unmarks: tuple[bytes, ...]
    unmarked: int
    leeway: int

    def prompt_tokens(self, first: bytes) -> int | None:
        """Read from the first events how many tokens the prompt has; None where they do not say."""
        ...

    def ended(self, passed: Passed) -> bool:
        """Tell whether the stream is complete: what follows is nobody's."""
        ...

    def cut_off(self, passed: Passed) -> bytes:
        """Write the events that end a stream for its length. `passed` has an event at least."""
        ...

    def failed(self, passed: Passed, problem: Problem, style: ErrorStyle) -> bytes:
        """Write the events that end a stream for a problem, as the clients of `style` expect it."""
        ...


def problem_of(kind: str, message: str, style: ErrorStyle) -> Problem:
    """Describe a problem of `kind` (see `dialects.errors`) that ends a stream."""
    return Problem(status_for(kind, style), kind, message)
