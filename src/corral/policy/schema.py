"""The JSON Schema of `corral.toml`, made from the model: editors complete and check a policy by it."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from corral.policy.model import Policy, Quota
from corral.policy.template import written

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """Build the schema, of draft 2020-12. It knows no contradictions: `load_policy` refuses more than it does."""
    return {"$schema": _DIALECT, "title": "corral.toml", **_table(Policy)}


def _table(kind: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    table: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {f.name: _setting(hints[f.name], f) for f in fields(kind)},
    }
    return table | {"required": needed} if needed else table


def _setting(kind: Any, described: Field[Any]) -> dict[str, Any]:
    unit = described.metadata["unit"]
    said = described.metadata["help"] + (f" In {unit}." if unit else "")
    built = _value(kind, unit) | {"description": said}
    if described.default is not MISSING and described.default is not None and not _is_table(kind):
        built["default"] = written(described.default)
    return built


def _is_table(kind: Any) -> bool:
    inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
    return is_dataclass(inner) and inner is not Quota


def _value(kind: Any, unit: str) -> dict[str, Any]:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        options = [option for option in get_args(kind) if option is not NoneType]
        if len(options) > 1:
            return {"anyOf": [_value(option, unit) for option in options]}
        kind = options[0]
        origin = get_origin(kind)
    if origin is tuple:
        return {"type": "array", "items": _value(get_args(kind)[0], unit)}
    if origin is Literal:
        return {"enum": list(get_args(kind))}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _value(get_args(kind)[1], unit)}
    if kind is Quota:
        return {"type": "string", "examples": ["30/minute", "30 per 60 seconds", "20 usd/day", "4 concurrent requests"]}
    if is_dataclass(kind):
        return _table(kind)  # type: ignore[arg-type]  # a class, as get_type_hints gives it
    if kind is float and unit == "seconds":
        return {"type": ["number", "string"], "examples": ["20s", "5m", 1.5]}
    if kind is float and unit == "share":
        return {"type": "number", "minimum": 0, "maximum": 1}
    if kind is int and unit == "bytes":
        return {"type": ["integer", "string"], "examples": ["64KiB", "1MiB", 4096]}
    return {"type": {float: "number", int: "integer", bool: "boolean", str: "string"}[kind]}
