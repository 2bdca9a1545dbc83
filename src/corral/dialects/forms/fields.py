"""Reading single fields of a body, strictly."""

from collections.abc import Iterable, Mapping
from typing import Any

from corral.dialects.model import BadRequest, Usage

MAXIMA = ("n_predict", "max_completion_tokens", "max_tokens", "max_output_tokens", "num_predict")
"""Every name under which some server takes the most tokens to generate; llama-server honours three of them anywhere."""

_MAXIMA = frozenset(MAXIMA)
_COPIES = ("n", "n_cmpl", "best_of")
_COPIES_SET = frozenset(_COPIES)

TOKEN_CHARS = 4
"""Characters that a token id counts as, and so does any other value that is no string: each is a token or more."""

NO_TEXT = frozenset((
    *MAXIMA, *_COPIES, "model", "stream", "temperature", "top_p", "top_k", "min_p", "seed", "repeat_penalty",
    "presence_penalty", "frequency_penalty",
))  # fmt: skip
"""Common fields whose values cannot carry text: they are checked to be numbers, flags, or the model's name."""


def whole(name: str, value: Any) -> int:
    """Read a whole number; 5.0 is one, True and "5" are none."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    raise BadRequest(f"{name} must be a whole number.", name)


def maximum(body: Mapping[str, Any]) -> int | None:
    """Read the most tokens asked for, under whatever names: the largest counts, and a negative one is infinite."""
    if _MAXIMA.isdisjoint(body):
        return None
    most: int | None = None
    for name in MAXIMA:
        value = body.get(name)
        if value is None:
            continue
        number = value if type(value) is int else whole(name, value)
        if number < 0:
            return None
        if most is None or number > most:
            most = number
    return most


def set_maximum(body: dict[str, Any], name: str, most: int) -> None:
    """Write `most` under `name`, and remove every other name for it."""
    for alias in MAXIMA:
        body.pop(alias, None)
    body[name] = most


def copies(body: Mapping[str, Any]) -> int:
    """Read how many answers are asked for to each prompt: n, n_cmpl and best_of, the largest of them."""
    most = 1
    if _COPIES_SET.isdisjoint(body):
        return most
    for name in _COPIES:
        value = body.get(name)
        if value is not None:
            number = whole(name, value)
            if number < 1:
                raise BadRequest(f"{name} must be at least 1.", name)
            most = max(most, number)
    return most


def flag(body: Mapping[str, Any], name: str) -> bool:
    """Read a boolean; absent and null are false."""
    value = body.get(name)
    if value is None:
        return False
    if value is True or value is False:
        return bool(value)
    raise BadRequest(f"{name} must be true or false.", name)


def model(body: Mapping[str, Any]) -> str | None:
    """Read the model's name, if one is given."""
    value = body.get("model")
    if value is None or type(value) is str:
        return value
    raise BadRequest("model must be a string.", "model")


def text(body: Mapping[str, Any], name: str) -> str:
    """Read a string; absent and null are empty."""
    value = body.get(name)
    if value is None:
        return ""
    if type(value) is str:
        return value
    raise BadRequest(f"{name} must be a string.", name)


def count_text(value: Any) -> int:
    """Count the characters of every string and of every member's name in a JSON value; all else counts as tokens."""
    if type(value) is str:
        return len(value)
    chars = 0
    parts: list[Any] = [value]
    for part in parts:  # grows meanwhile: no nesting is too deep
        kind = type(part)
        if kind is str:
            chars += len(part)
            continue
        chars += TOKEN_CHARS
        if kind is list:
            parts += part
        elif kind is dict:
            chars += sum(map(len, part))
            parts += part.values()
    return chars


def count_others(body: Mapping[str, Any], counted: frozenset[str]) -> int:
    """Count the text in every field of a body but those in `counted`: whatever a field is called, it may be read."""
    if counted.issuperset(body):
        return 0
    return sum(
        count_text(value)
        for name, value in body.items()
        if name not in counted and (type(value) is str or type(value) is list or type(value) is dict)
    )


def is_blank(value: Any) -> bool:
    """Tell whether a JSON value brings a model nothing to read: no string but white space, and no number."""
    parts: list[Any] = [value]
    for part in parts:  # grows meanwhile
        kind = type(part)
        if kind is str:
            if part and not part.isspace():
                return False
        elif kind is dict:
            parts += part.values()
        elif kind is list:
            parts += part
        elif kind is int or kind is float:
            return False
    return True


def count_prompts(name: str, value: Any) -> tuple[int, int]:
    """Count the prompts in a prompt field and their characters.

    A prompt is a string, a list of token ids, a list of token ids and strings mixed, or an object with a string in
    `prompt_string`; the field holds one, or a list of them.
    """
    if value is None:
        return 1, 0
    if type(value) is list:
        if value and all(type(part) is int for part in value):
            return 1, TOKEN_CHARS * len(value)
        if any(type(part) is int for part in value) and all(type(part) in (int, str) for part in value):
            return 1, count_text(value)
        return max(1, len(value)), sum(_one_prompt(name, part) for part in value)
    return 1, _one_prompt(name, value)


def _one_prompt(name: str, value: Any) -> int:
    kind = type(value)
    if kind is str or kind is dict:
        return count_text(value)
    if kind is list and all(type(part) in (int, str) for part in value):
        return count_text(value)
    raise BadRequest(f"{name} must be a string, a list of token ids, or a list of such prompts.", name)


def number_or_none(value: Any) -> int | None:
    """Read a count that a server reports; what is none is not there."""
    return value if type(value) is int and value >= 0 else None


def compute_time(answer: Mapping[str, Any]) -> float | None:
    """Read llama-server's `timings`: prompt and generation time together, in milliseconds."""
    timings = answer.get("timings")
    if type(timings) is not dict:
        return None
    total: float | None = None
    for name in ("prompt_ms", "predicted_ms"):
        spent: Any = timings.get(name)
        if (type(spent) is float or type(spent) is int) and spent >= 0:
            total = spent + (total or 0.0)
    return total


def reported(answer: Mapping[str, Any], prompt: Iterable[str], completion: str) -> Usage | None:
    """Read an OpenAI-like `usage` object, where `prompt` fields add up, and llama-server's timings beside it."""
    usage = answer.get("usage")
    compute = compute_time(answer) if "timings" in answer else None
    if type(usage) is not dict:
        if compute is None:
            return None
        timings = answer["timings"]
        read = number_or_none(timings.get("prompt_n"))
        cached = number_or_none(timings.get("cache_n")) or 0
        return Usage(None if read is None else read + cached, number_or_none(timings.get("predicted_n")), compute)
    total: int | None = None
    for name in prompt:
        number = usage.get(name)
        if type(number) is int and number >= 0:
            total = number if total is None else total + number
    return Usage(total, number_or_none(usage.get(completion)), compute)
