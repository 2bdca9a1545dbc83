"""Ollama's own bodies: what is asked for stands in `options`, and a stream is one JSON object a line.

Read off Ollama's API reference and the types of its server (0.33). That server is written in Go, whose JSON decoder
takes a field's name in any case, so `"Stream"` would be read there and not here: names are lower-case, or refused.
What loads the model anew or keeps it loaded (`num_ctx`, `num_gpu`, `keep_alive`, `shift`) is removed by
`dialects.sanitise`: it is the operator's, as OLLAMA_CONTEXT_LENGTH and OLLAMA_KEEP_ALIVE.
"""

from collections.abc import Mapping
from typing import Any

from corral.dialects.endings.lines import CHAT_LINES, GENERATE_LINES
from corral.dialects.endings.model import StreamKind
from corral.dialects.forms.chat import Chat
from corral.dialects.forms.fields import (
    MAXIMA,
    NO_TEXT,
    count_others,
    is_blank,
    model,
    number_or_none,
    text,
    whole,
)
from corral.dialects.forms.inputs import Inputs
from corral.dialects.model import Asked, BadRequest, Form, Usage

_MILLISECOND = 1_000_000.0
"""Ollama's durations are nanoseconds."""


def check_names(body: Mapping[str, Any]) -> None:
    """Refuse names of fields that Go would read as other names than they are."""
    for name in body:
        if not name.isascii() or name != name.lower():
            raise BadRequest(f"{name[:64]} must be written in lower case.", name[:64])


def read_stream(body: Mapping[str, Any]) -> bool:
    """Read whether a stream is asked for; absent and null are true."""
    value = body.get("stream")
    if value is None or value is True:
        return True
    if value is False:
        return False
    raise BadRequest("stream must be true or false.", "stream")


def read_maximum(body: Mapping[str, Any]) -> int | None:
    """Read the most tokens asked for; absent, 0 and below mean no end (-2: until the context is full)."""
    options = body.get("options")
    if options is None:
        return None
    if type(options) is not dict:
        raise BadRequest("options must be an object.", "options")
    value = options.get("num_predict")
    if value is None:
        return None
    number = whole("num_predict", value)
    return number if number > 0 else None


def write_maximum(body: dict[str, Any], most: int) -> None:
    """Write `most` where Ollama looks for it, and nowhere else."""
    for alias in MAXIMA:
        body.pop(alias, None)
    options = body.get("options")
    body["options"] = {**options, "num_predict": most} if type(options) is dict else {"num_predict": most}


def read_metrics(answer: Mapping[str, Any]) -> Usage | None:
    """Read what an answer, or the last object of a stream, says of its costs. A count of 0 is left out there."""
    if "total_duration" not in answer:
        return None
    completion = number_or_none(answer.get("eval_count", 0))
    compute: float | None = None
    for name in ("prompt_eval_duration", "eval_duration"):
        spent = number_or_none(answer.get(name))
        if spent is not None:
            compute = (compute or 0.0) + spent / _MILLISECOND
    return Usage(number_or_none(answer.get("prompt_eval_count")), completion, compute)


class OllamaChat(Chat):
    """A body with `messages`, as `/api/chat` takes it."""

    name = "ollama-chat"
    stream: StreamKind | None = CHAT_LINES
    _counted: frozenset[str] = NO_TEXT | {"messages", "options"}
    _also_speak: tuple[str, ...] = ("tools",)

    def read(self, body: dict[str, Any]) -> Asked:
        """Read what is asked for; see `Form.read`."""
        check_names(body)
        chars, blank = self._count_messages(body)
        chars += count_others(body, self._counted)
        return Asked(read_maximum(body), 1, 0, chars, read_stream(body), model(body), blank)

    def clamp(self, body: dict[str, Any], max_tokens: int) -> None:
        """Ask for at most `max_tokens`; see `Form.clamp`."""
        write_maximum(body, max_tokens)

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:
        """Read the usage; see `Form.usage`."""
        return read_metrics(answer)


class Generate:
    """A body with a `prompt`, as `/api/generate` takes it. Without one it would load the model, or unload it."""

    name = "ollama-generate"
    stream: StreamKind | None = GENERATE_LINES
    _counted: frozenset[str] = NO_TEXT | {"prompt", "options"}

    def read(self, body: dict[str, Any]) -> Asked:
        """Read what is asked for; see `Form.read`."""
        check_names(body)
        if body.get("template"):
            raise BadRequest("template is not allowed here: the model has its own.", "template")
        prompt = text(body, "prompt")
        context = body.get("context")
        if context is not None and (type(context) is not list or not all(type(part) is int for part in context)):
            raise BadRequest("context must be a list of token ids.", "context")
        chars = len(prompt) + count_others(body, self._counted)
        return Asked(read_maximum(body), 1, 0, chars, read_stream(body), model(body), is_blank(prompt))

    def clamp(self, body: dict[str, Any], max_tokens: int) -> None:
        """Ask for at most `max_tokens`; see `Form.clamp`."""
        write_maximum(body, max_tokens)

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:
        """Read the usage; see `Form.usage`."""
        return read_metrics(answer)


class Embed(Inputs):
    """Texts to embed: `/api/embed` and the older `/api/embeddings`."""

    def read(self, body: dict[str, Any]) -> Asked:
        """Read what is asked for; see `Form.read`."""
        check_names(body)
        return Inputs.read(self, body)

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:
        """Read the usage: the prompt's tokens, and the time that did not go into loading the model."""
        total, loading = number_or_none(answer.get("total_duration")), number_or_none(answer.get("load_duration"))
        if total is None:
            return None
        return Usage(number_or_none(answer.get("prompt_eval_count")), 0, max(0, total - (loading or 0)) / _MILLISECOND)


class Show:
    """A question about one model. `verbose` would bring its whole vocabulary, so it is not passed on."""

    name = "ollama-show"
    stream: StreamKind | None = None

    def read(self, body: dict[str, Any]) -> Asked:
        """Read which model is asked about, and leave nothing else in the body."""
        check_names(body)
        name = text(body, "model") or text(body, "name")
        if not name:
            raise BadRequest("model is missing.", "model")
        body.clear()
        body["model"] = name
        return Asked(None, 1, 0, len(name), False, name)

    def clamp(self, body: dict[str, Any], max_tokens: int) -> None:
        """Nothing is generated, so there is nothing to clamp."""

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:  # noqa: ARG002  # nothing is used
        """Nothing is used."""
        return None


class Manage:
    """What an admin may send where the policy opens the management routes: any object."""

    name = "ollama-manage"
    stream: StreamKind | None = None

    def read(self, body: dict[str, Any]) -> Asked:
        """Take the body as it is."""
        return Asked(None, 1, 0, 0, False, model(body))

    def clamp(self, body: dict[str, Any], max_tokens: int) -> None:
        """Nothing is generated, so there is nothing to clamp."""

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:  # noqa: ARG002  # nothing is used
        """Nothing is used."""
        return None


class PlainNames:
    """Another API's form as Ollama serves it: the same, but for the names of its fields."""

    def __init__(self, form: Form) -> None:
        self.name = form.name
        self.stream: StreamKind | None = form.stream
        self._form = form

    def read(self, body: dict[str, Any]) -> Asked:
        """Read what is asked for; see `Form.read`."""
        check_names(body)
        return self._form.read(body)

    def clamp(self, body: dict[str, Any], max_tokens: int) -> None:
        """Ask for at most `max_tokens`; see `Form.clamp`."""
        self._form.clamp(body, max_tokens)

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:
        """Read the usage; see `Form.usage`."""
        return self._form.usage(answer)


CHAT = OllamaChat()
GENERATE = Generate()
EMBED = Embed("ollama-embed", ("input",))
EMBEDDINGS = Embed("ollama-embeddings", ("prompt",))
SHOW = Show()
MANAGE = Manage()
