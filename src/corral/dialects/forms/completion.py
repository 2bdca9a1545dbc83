"""Text completions: llama-server's own `/completion`, and OpenAI's `/v1/completions`."""

from collections.abc import Mapping
from typing import Any

from corral.dialects.forms.fields import (
    compute_time,
    copies,
    count_prompts,
    flag,
    maximum,
    model,
    number_or_none,
    reported,
    set_maximum,
)
from corral.dialects.model import Asked, BadRequest, Usage


class Completion:
    """A body with a `prompt`."""

    def __init__(self, name: str, maximum_name: str) -> None:
        self.name = name
        self._maximum_name = maximum_name

    def read(self, body: dict[str, Any]) -> Asked:
        """Read what is asked for; see `Form.read`."""
        if "prompt" not in body:
            raise BadRequest("prompt is missing.", "prompt")
        prompts, chars = count_prompts("prompt", body["prompt"])
        return Asked(maximum(body), prompts * copies(body), 0, chars, flag(body, "stream"), model(body))

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

    def read(self, body: dict[str, Any]) -> Asked:
        """Read what is asked for; see `Form.read`."""
        for name in ("input_prefix", "input_suffix"):
            if type(body.get(name)) is not str:
                raise BadRequest(f"{name} must be a string.", name)
        extra = body.get("input_extra", [])
        if type(extra) is not list:
            raise BadRequest("input_extra must be a list.", "input_extra")
        prompts, chars = count_prompts("prompt", body.get("prompt"))
        chars += sum(len(body[name]) for name in ("input_prefix", "input_suffix"))
        for part in extra:
            if type(part) is not dict or type(part.get("text", "")) is not str:
                raise BadRequest("input_extra must be a list of objects with a text.", "input_extra")
            chars += len(part.get("text", "")) + len(str(part.get("filename", "")))
        return Asked(maximum(body), prompts * copies(body), 0, chars, flag(body, "stream"), model(body))


NATIVE = Completion("completion", "n_predict")
OPENAI = Completion("text-completion", "max_tokens")
INFILL = Infill("infill", "n_predict")
