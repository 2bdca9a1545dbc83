"""Text completions: llama-server's own `/completion`, and OpenAI's `/v1/completions`."""

from collections.abc import Mapping
from typing import Any

from corral.dialects.endings.chunks import TEXT_CHUNKS
from corral.dialects.endings.model import StreamKind
from corral.dialects.endings.native import NATIVE_EVENTS
from corral.dialects.forms.fields import (
    NO_TEXT,
    compute_time,
    copies,
    count_others,
    count_prompts,
    count_text,
    flag,
    is_blank,
    maximum,
    model,
    number_or_none,
    reported,
    set_maximum,
)
from corral.dialects.model import Asked, BadRequest, Usage


class Completion:
    """A body with a `prompt`."""

    _counted: frozenset[str] = NO_TEXT | {"prompt"}

    def __init__(self, name: str, maximum_name: str, stream: StreamKind) -> None:
        self.name = name
        self.stream: StreamKind | None = stream
        self._maximum_name = maximum_name

    def read(self, body: dict[str, Any]) -> Asked:
        """Read what is asked for; see `Form.read`."""
        if "prompt" not in body:
            raise BadRequest("prompt is missing.", "prompt")
        prompt = body["prompt"]
        prompts, chars = count_prompts("prompt", prompt)
        return self._asked(body, prompts, chars, blank=is_blank(prompt))

    def _asked(self, body: dict[str, Any], prompts: int, chars: int, *, blank: bool) -> Asked:
        chars += count_others(body, self._counted)
        return Asked(maximum(body), prompts * copies(body), 0, chars, flag(body, "stream"), model(body), blank)

    def clamp(self, body: dict[str, Any], max_tokens: int) -> None:
        """Ask for at most `max_tokens`; see `Form.clamp`."""
        set_maximum(body, self._maximum_name, max_tokens)

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:
        """Read the usage; see `Form.usage`."""
        if "tokens_predicted" in answer:
            return Usage(
                number_or_none(answer.get("tokens_evaluated")),
                number_or_none(answer.get("tokens_predicted")),
                compute_time(answer),
            )
        return reported(answer, ("prompt_tokens",), "completion_tokens")


class Infill(Completion):
    """llama-server's `/infill`: code before, code after, and more files to read."""

    _counted: frozenset[str] = NO_TEXT | {"prompt", "input_prefix", "input_suffix", "input_extra"}

    def read(self, body: dict[str, Any]) -> Asked:
        """Read what is asked for; see `Form.read`."""
        for name in ("input_prefix", "input_suffix"):
            if type(body.get(name)) is not str:
                raise BadRequest(f"{name} must be a string.", name)
        extra = body.get("input_extra", [])
        if type(extra) is not list:
            raise BadRequest("input_extra must be a list.", "input_extra")
        prompt = body.get("prompt")
        prompts, chars = count_prompts("prompt", prompt)
        for part in extra:
            if type(part) is not dict or type(part.get("text", "")) is not str:
                raise BadRequest("input_extra must be a list of objects with a text.", "input_extra")
        around = [body["input_prefix"], body["input_suffix"], *extra]
        chars += sum(map(count_text, around))
        return self._asked(body, prompts, chars, blank=is_blank(prompt) and is_blank(around))


NATIVE = Completion("completion", "n_predict", NATIVE_EVENTS)
OPENAI = Completion("text-completion", "max_tokens", TEXT_CHUNKS)
INFILL = Infill("infill", "n_predict", NATIVE_EVENTS)
