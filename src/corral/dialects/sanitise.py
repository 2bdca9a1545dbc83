"""What no request may carry, whatever its form: fields that crash servers, samplers out of range, unbounded extras.

One rule a field, found by its name in one table, so that a body costs one look-up for each of its fields.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, NamedTuple

import orjson

from corral.dialects.model import BadRequest


class FieldBounds(NamedTuple):
    """The policy's bounds for single fields; sizes in bytes of JSON."""

    max_logprobs: int
    max_logit_bias: int
    grammar: bool
    max_schema: int
    max_schema_depth: int


Rule = Callable[[str, Any, FieldBounds], Any]
"""Judge a field's value: return what to forward in its stead, or DROP; raise BadRequest."""

DROP = object()

MAX_CONTAINERS = 10_000
"""Most lists and objects in one body: far more than honest requests hold, and few enough to be looked through."""

_MAX_STOPS = 16
_MAX_STOP_LENGTH = 256
_MAX_TEMPLATE_ARGUMENT = 64
_TEMPLATE_ARGUMENTS = frozenset(("enable_thinking", "thinking", "reasoning_effort"))


def check_fields(body: dict[str, Any], bounds: FieldBounds) -> None:
    """Apply the rules to `body`, changing it in place. Raises BadRequest at the first value that may not pass."""
    changes: dict[str, Any] | None = None
    for name, value in body.items():
        rule = RULES.get(name)
        if rule is not None and value is not None:
            kept = rule(name, value, bounds)
            if kept is not value:
                changes = changes or {}
                changes[name] = kept
    if changes is not None:
        for name, kept in changes.items():
            if kept is DROP:
                del body[name]
            else:
                body[name] = kept


def depth_exceeds(value: Any, limit: int) -> bool:
    """Tell whether `value` nests deeper than `limit` levels; a plain value has none.

    What holds more than `MAX_CONTAINERS` lists and objects counts as too deep: nobody looks through more of them.
    """
    level: list[Any] = [value] if type(value) is dict or type(value) is list else []
    depth = seen = 0
    while level:
        depth += 1
        seen += len(level)
        if depth > limit or seen > MAX_CONTAINERS:
            return True
        below: list[Any] = []
        for container in level:
            for part in container.values() if type(container) is dict else container:
                if type(part) is dict or type(part) is list:
                    below.append(part)  # noqa: PERF401  # a comprehension of both loops is no faster, and harder to read
        level = below
    return False


def _drop(name: str, value: Any, bounds: FieldBounds) -> Any:  # noqa: ARG001  # the shape of a rule
    return DROP


def _number(low: float, high: float) -> Rule:
    def rule(name: str, value: Any, bounds: FieldBounds) -> Any:  # noqa: ARG001  # the shape of a rule
        if type(value) not in (int, float) or not isfinite(value) or not low <= value <= high:
            raise BadRequest(f"{name} must be a number from {low:g} to {high:g}.", name)
        return value

    return rule


def _integer(low: int, high: int) -> Rule:
    def rule(name: str, value: Any, bounds: FieldBounds) -> Any:  # noqa: ARG001  # the shape of a rule
        whole = type(value) is int or (type(value) is float and value.is_integer())
        if not whole or not low <= value <= high:
            raise BadRequest(f"{name} must be a whole number from {low} to {high}.", name)
        return value

    return rule


def _boolean(name: str, value: Any, bounds: FieldBounds) -> Any:  # noqa: ARG001  # the shape of a rule
    if value is not True and value is not False:
        raise BadRequest(f"{name} must be true or false.", name)
    return value


def _alternatives(name: str, value: Any, bounds: FieldBounds) -> Any:
    if value is True or value is False:  # OpenAI's chats switch them on with a boolean
        return value
    if type(value) is not int or not 0 <= value <= bounds.max_logprobs:
        raise BadRequest(f"{name} must be a whole number from 0 to {bounds.max_logprobs}.", name)
    return value


def _logit_bias(name: str, value: Any, bounds: FieldBounds) -> Any:
    if type(value) not in (dict, list):
        raise BadRequest("logit_bias must be an object or a list.", name)
    if len(value) > bounds.max_logit_bias:
        raise BadRequest(f"logit_bias has {len(value)} entries; at most {bounds.max_logit_bias} are allowed.", name)
    return value


def _stop(name: str, value: Any, bounds: FieldBounds) -> Any:  # noqa: ARG001  # the shape of a rule
    stops = [value] if type(value) is str else value
    if type(stops) is not list or len(stops) > _MAX_STOPS:
        raise BadRequest(f"{name} must be a string, or a list of at most {_MAX_STOPS} strings.", name)
    for stop in stops:
        if type(stop) is not str or len(stop) > _MAX_STOP_LENGTH:
            raise BadRequest(f"Each string of {name} has at most {_MAX_STOP_LENGTH} characters.", name)
    return value


def _grammar(name: str, value: Any, bounds: FieldBounds) -> Any:
    if not bounds.grammar:
        raise BadRequest(f"{name} is not allowed here (generation.grammar is off).", name)
    if type(value) is not str or len(value) > bounds.max_schema or "%llguidance" in value:
        raise BadRequest(f"{name} must be a GBNF grammar of at most {bounds.max_schema} bytes.", name)
    return value


def _forbidden(name: str, value: Any, bounds: FieldBounds) -> Any:  # noqa: ARG001  # the shape of a rule
    raise BadRequest(f"{name} is not allowed here.", name)


def _schema(name: str, value: Any, bounds: FieldBounds) -> Any:
    """Bound a JSON schema, or a list of tools with schemas in it: its size, its depth, and no patterns.

    Servers compile schemas to grammars; patterns and deep ones have crashed llama.cpp.
    """
    if type(value) not in (dict, list, str, bool):
        raise BadRequest(f"{name} must be an object.", name)
    if len(orjson.dumps(value)) > bounds.max_schema:
        raise BadRequest(f"{name} is longer than {bounds.max_schema} bytes.", name)
    if depth_exceeds(value, bounds.max_schema_depth):
        raise BadRequest(f"{name} nests deeper than {bounds.max_schema_depth} levels.", name)
    if _has_pattern(value):
        raise BadRequest(f"{name} must not use pattern or patternProperties.", name)
    return value


def _has_pattern(value: Any) -> bool:
    if type(value) is dict:
        for name, part in value.items():
            if name == "patternProperties" or (name == "pattern" and type(part) is str):
                return True
            if type(part) in (dict, list) and _has_pattern(part):
                return True
        return False
    return any(_has_pattern(part) for part in value) if type(value) is list else False


def _template_arguments(name: str, value: Any, bounds: FieldBounds) -> Any:  # noqa: ARG001  # the shape of a rule
    if type(value) is not dict:
        raise BadRequest(f"{name} must be an object.", name)
    kept = {key: part for key, part in value.items() if key in _TEMPLATE_ARGUMENTS and type(part) in (bool, str, int)}
    if any(type(part) is str and len(part) > _MAX_TEMPLATE_ARGUMENT for part in kept.values()):
        raise BadRequest(f"Each string of {name} has at most {_MAX_TEMPLATE_ARGUMENT} characters.", name)
    return value if len(kept) == len(value) else kept


def _names(name: str, value: Any, bounds: FieldBounds) -> Any:  # noqa: ARG001  # the shape of a rule
    text = type(value) is str and len(value) <= 64
    names = type(value) is list and len(value) <= 32 and all(type(part) is str for part in value)
    if not (text or names):
        raise BadRequest(f"{name} must be a list of names.", name)
    return value


def _options(name: str, value: Any, bounds: FieldBounds) -> Any:
    """Judge Ollama's options one by one. What is not known is removed: much of it would load the model anew."""
    if type(value) is not dict:
        raise BadRequest("options must be an object.", name)
    kept = {option: part for option, part in value.items() if option in _OPTIONS and part is not None}
    for option, part in kept.items():
        _OPTIONS[option](option, part, bounds)
    return kept


def _thinking(name: str, value: Any, bounds: FieldBounds) -> Any:  # noqa: ARG001  # the shape of a rule
    if value is not True and value is not False and (type(value) is not str or len(value) > _MAX_TEMPLATE_ARGUMENT):
        raise BadRequest(f"{name} must be true, false or a level.", name)
    return value


_unit = _number(0, 1)
_penalty = _number(-10, 10)
_int64 = _integer(-(2**63), 2**64 - 1)

_OPTIONS: Mapping[str, Rule] = {
    "num_predict": _integer(-2, 2**31 - 1),
    "num_keep": _integer(-1, 1_000_000),
    "seed": _int64,
    "temperature": _number(0, 10),
    "top_k": _integer(-1, 1_000_000),
    "top_p": _unit,
    "min_p": _unit,
    "tfs_z": _number(0, 100),
    "typical_p": _unit,
    "repeat_last_n": _integer(-1, 1_000_000),
    "repeat_penalty": _number(0, 10),
    "presence_penalty": _penalty,
    "frequency_penalty": _penalty,
    "penalize_newline": _boolean,
    "mirostat": _integer(0, 2),
    "mirostat_tau": _number(0, 100),
    "mirostat_eta": _number(0, 10),
    "stop": _stop,
}

RULES: Mapping[str, Rule] = {
    "temperature": _number(0, 10),
    "dynatemp_range": _number(0, 10),
    "dynatemp_exponent": _number(0, 10),
    "top_p": _unit,
    "min_p": _unit,
    "typical_p": _unit,
    "top_n_sigma": _number(-1, 100),
    "top_k": _integer(-1, 1_000_000),
    "min_keep": _integer(0, 1_000_000),
    "xtc_probability": _unit,
    "xtc_threshold": _unit,
    "repeat_penalty": _number(0, 10),
    "presence_penalty": _penalty,
    "frequency_penalty": _penalty,
    "repeat_last_n": _integer(-1, 1_000_000),
    "dry_multiplier": _number(0, 100),
    "dry_base": _number(0, 100),
    "dry_allowed_length": _integer(0, 1_000_000),
    "dry_penalty_last_n": _integer(-1, 1_000_000),
    "dry_sequence_breakers": _stop,
    "mirostat": _integer(0, 2),
    "mirostat_tau": _number(0, 100),
    "mirostat_eta": _number(0, 10),
    "adaptive_target": _number(-1, 10),
    "adaptive_decay": _unit,
    "seed": _int64,
    "samplers": _names,
    "stop": _stop,
    "stop_sequences": _stop,
    "n_probs": _alternatives,
    "logprobs": _alternatives,
    "top_logprobs": _alternatives,
    "logit_bias": _logit_bias,
    "ignore_eos": _boolean,
    "n_keep": _integer(-1, 1_000_000),
    "n_indent": _integer(0, 1000),
    "grammar": _grammar,
    "grammar_lazy": _forbidden,
    "grammar_triggers": _forbidden,
    "preserved_tokens": _forbidden,
    "json_schema": _schema,
    "response_format": _schema,
    "tools": _schema,
    "functions": _schema,
    "text": _schema,
    "chat_template": _forbidden,
    "chat_template_kwargs": _template_arguments,
    "lora": _forbidden,
    "n_discard": _drop,
    "id_slot": _drop,
    "slot_id": _drop,
    "t_max_prompt_ms": _drop,
    "t_max_predict_ms": _drop,
    "n_cache_reuse": _drop,
    "return_progress": _drop,
    "speculative.n_max": _drop,
    "speculative.n_min": _drop,
    "speculative.p_min": _drop,
    "guided_json": _forbidden,
    "guided_regex": _forbidden,
    "guided_grammar": _forbidden,
    "structured_outputs": _forbidden,
    "kv_transfer_params": _drop,
    "priority": _drop,
    "options": _options,
    "format": _schema,
    "think": _thinking,
    "raw": _boolean,
    "keep_alive": _drop,
    "shift": _drop,
    "_debug_render_only": _drop,
}
