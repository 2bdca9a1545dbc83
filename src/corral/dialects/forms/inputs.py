"""Requests that generate nothing: embeddings, reranking, tokenising, templates."""

from collections.abc import Mapping
from typing import Any

from corral.dialects.endings.model import StreamKind
from corral.dialects.forms.fields import NO_TEXT, count_others, count_prompts, count_text, model, reported
from corral.dialects.model import Asked, BadRequest, Usage


class Inputs:
    """A body whose texts stand in some of the fields `names`; at least one of them must be there."""

    stream: StreamKind | None = None

    def __init__(self, name: str, names: tuple[str, ...], *, several: tuple[str, ...] = ()) -> None:
        self.name = name
        self._names = names
        self._several = several
        self._counted = NO_TEXT.union(names, several)

    def read(self, body: dict[str, Any]) -> Asked:
        """Read what is asked for; see `Form.read`."""
        inputs = chars = 0
        given = [name for name in (*self._names, *self._several) if body.get(name) is not None]
        if not given:
            raise BadRequest(f"{' or '.join(self._names)} is missing.", self._names[0])
        for name in given:
            value = body[name]
            if name in self._several:
                if type(value) is not list:
                    raise BadRequest(f"{name} must be a list.", name)
                inputs += len(value)
                chars += count_text(value)
            else:
                more, size = count_prompts(name, value)
                inputs += more
                chars += size
        chars += count_others(body, self._counted)
        return Asked(None, 1, inputs, chars, False, model(body))

    def clamp(self, body: dict[str, Any], max_tokens: int) -> None:
        """Nothing is generated, so there is nothing to clamp."""

    def usage(self, answer: Mapping[str, Any]) -> Usage | None:
        """Read the usage; see `Form.usage`."""
        return reported(answer, ("prompt_tokens",), "completion_tokens")


EMBEDDINGS = Inputs("embeddings", ("input", "content"))
RERANK = Inputs("rerank", ("query",), several=("documents", "texts"))
TOKENISE = Inputs("tokenise", ("content", "prompt", "tokens", "messages", "input", "text", "system", "tools"))
