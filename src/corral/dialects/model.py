"""What a dialect is: the routes of one inference API, and how their requests and answers are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from corral.dialects.endings.model import StreamKind


class RouteClass(Enum):
    """What a route costs or exposes; the guard's rules speak of these, never of paths."""

    INFERENCE = "inference"
    EMBEDDING = "embedding"
    TOKENISE = "tokenise"
    STATE = "state"
    MANAGEMENT = "management"
    HEALTH = "health"
    STATIC = "static"


class ErrorStyle(Enum):
    """Whose error body a route's clients expect."""

    LLAMACPP = "llamacpp"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    OLLAMA = "ollama"


class Problem(NamedTuple):
    """Why a request was not served, in no dialect yet.

    `kind` is one of the names in `dialects.errors`; `message` is for people and ends with a full stop; `param` names
    the field of the body that is at fault.
    """

    status: int
    kind: str
    message: str
    param: str | None = None


class BadRequest(Exception):
    """A body that its route's form cannot accept. `param` names the field, `message` says what to send instead."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class Asked(NamedTuple):
    """What a request asks of the model.

    `max_tokens` is None where the client set none, or asked for infinity. `choices` ≥ 1 is how many generations the
    request makes (n × best_of × prompts); `inputs` ≥ 0 how many texts an embedding or rerank request brings.
    `prompt_chars` counts every piece of text the model may read, wherever in the body it stands; a token id counts as
    four characters. `blank` says that a prompt that is needed brings nothing but white space.
    """

    max_tokens: int | None
    choices: int
    inputs: int
    prompt_chars: int
    stream: bool
    model: str | None
    blank: bool = False


class Usage(NamedTuple):
    """What the server reports to have used; None where it does not say. `compute_ms` is prompt plus generation time."""

    prompt_tokens: int | None
    completion_tokens: int | None
    compute_ms: float | None


class Form(Protocol):
    """How one kind of request body is spelled. Stateless; shared by all routes that take it.

    `stream` says what its answers are where they are streams of events; None where they never are.
    """

    name: str
    stream: "StreamKind | None"

    def read(self, body: dict[str, Any]) -> Asked:
        """Read what `body` asks for. Raises BadRequest where a field that matters has the wrong type or value."""
        ...

    def clamp(self, body: dict[str, Any], max_tokens: int) -> None:
        """Make `body` ask for at most `max_tokens` a generation, under one canonical name: every alias is removed."""
        ...

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:
        """Read the usage from a whole JSON answer, or from one event of a stream."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Counter:
    """How a server is asked how many tokens the prompt of a request has, which it then does not run.

    `path` is where, with POST. `question` makes the body of a request into that of the question; None where this prompt
    cannot be asked for. `count` reads the answer, a JSON object; None where it does not say. An answer grows by
    `per_byte` bytes at most with each byte of the question.
    """

    path: bytes
    question: Callable[[bytes], bytes | None]
    count: Callable[[Mapping[str, Any]], int | None]
    per_byte: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One thing a server does. Aliases share the Route: what is counted and forwarded is the route, not its spelling.

    `needs_place` says whether its requests keep a slot of the server busy. A route is equal to itself alone. `counter`
    counts its prompts, where the server has such a thing.
    """

    name: str
    kind: RouteClass
    method: bytes
    path: bytes
    form: Form | None
    errors: ErrorStyle
    needs_place: bool = False
    counter: Counter | None = None


class Dialect(Protocol):
    """One inference API."""

    name: str

    def match(self, method: bytes, path: bytes) -> Route | None:
        """Find the route of an exact path (no query). None is an unknown route, and unknown is denied."""
        ...

    def allowed(self, path: bytes) -> tuple[bytes, ...]:
        """List the methods that `path` has, for `Allow`; empty if the path is unknown."""
        ...
