"""The commented corral.toml that `corral init` writes, made from the model itself."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from textwrap import wrap
from typing import Any, get_args, get_origin, get_type_hints

from corral.policy.model import ANY_MODEL, ApiKey, LimitRule, Plan, Policy, Price, Quota, UpstreamServer
from corral.policy.notation import describe_quota

_HEAD = """\
# How Corral guards an inference server. Every setting stands here with its default; remove the "#" to change one.
# `corral check` validates this file and says in words what it will do.
"""

_EXAMPLE_KEY = ApiKey(name="alice", sha256="0" * 64)
_EXAMPLE_SERVERS = (
    UpstreamServer(name="left", url="http://10.0.0.1:8081"),
    UpstreamServer(name="right", url="http://10.0.0.2:8081", slots=2),
)
_EXAMPLE_PLANS = {
    "pro": Plan(
        limits=(
            LimitRule(name="pro", quota=Quota(120, 60.0)),
            LimitRule(name="pro-budget", quota=Quota(5_000_000, 86_400.0, "cost", "usd", "day")),
        ),
        priority=2.0,
        models=("llama-3",),
        max_tokens=4096,
    )
}
_EXAMPLE_PRICES = {ANY_MODEL: Price(input=0.15, output=0.6)}
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def template() -> str:
    """Write the file: every setting, commented out, with its help and its default."""
    hints = get_type_hints(Policy)
    tops: list[str] = []
    sections: list[str] = []
    default = Policy()
    for described in fields(Policy):
        value = getattr(default, described.name)
        kind = hints[described.name]
        if described.name == "limits":
            sections.append(_array("limits", described, LimitRule, value))
        elif described.name == "keys":
            sections.append(_array("keys", described, ApiKey, (_EXAMPLE_KEY,)))
        elif described.name == "price":
            sections.append(_named("price", described, Price, _EXAMPLE_PRICES))
        elif described.name == "upstreams":
            sections.append(_array("upstreams", described, UpstreamServer, _EXAMPLE_SERVERS))
        elif get_origin(kind) is Mapping:
            sections.append(_named(described.name, described, Plan, _EXAMPLE_PLANS))
        elif is_dataclass(kind) and kind is not Quota:
            sections.append(_section(described.name, value))
        else:
            tops.append(_setting(described, value))
    return "\n".join([_HEAD, *tops, *sections])


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in wrap(text, 108))


def _setting(described: Field[Any], value: object) -> str:
    unit = described.metadata["unit"]
    help_text = described.metadata["help"] + (f" In {unit}." if unit else "")
    shown = literal(value) if value is not None else f"{_placeholder(described)}"
    return f"{_comment(help_text)}#{described.name} = {shown}\n"


def _placeholder(described: Field[Any]) -> str:
    return '""' if described.metadata["unit"] == "" else "0"


def _section(name: str, value: Any) -> str:
    body = "\n".join(_setting(described, getattr(value, described.name)) for described in fields(value))
    return f"\n[{name}]\n{body}"


def _named(name: str, described: Field[Any], kind: type[Any], values: Mapping[str, Any]) -> str:
    lines = [f"\n{_comment(described.metadata['help'])}"]
    lines += [_comment(f"{inner.name}: {inner.metadata['help']}") for inner in fields(kind)]
    for key, value in values.items():
        lines.append(f"#[{name}.{key if _BARE.fullmatch(key) else literal(key)}]\n")
        lines += [f"#{f.name} = {literal(getattr(value, f.name))}\n" for f in fields(kind) if f.name != "limits"]
        for limit in getattr(value, "limits", ()):
            lines.append(f"#[[{name}.{key}.limits]]\n#name = {literal(limit.name)}\n#quota = {literal(limit.quota)}\n")
    return "".join(lines)


def _array(name: str, described: Field[Any], kind: type[Any], values: tuple[Any, ...]) -> str:
    lines = [f"\n{_comment(described.metadata['help'])}"]
    lines += [_comment(f"{inner.name}: {inner.metadata['help']}") for inner in fields(kind)]
    for value in values:
        lines.append(f"#[[{name}]]\n")
        for inner in fields(kind):
            given = getattr(value, inner.name)
            if given is not None and (inner.default is MISSING or given != inner.default or name == "limits"):
                lines.append(f"#{inner.name} = {literal(given)}\n")
    return "".join(lines)


def literal(value: object) -> str:
    """Write a value as TOML does."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Quota):
        return f'"{describe_quota(value).replace(",", "")}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, int) else f'"{value}"'


def written(value: object) -> object:
    """Give a value as a policy's reader finds it: a quota as text, a tuple as a list."""
    if isinstance(value, Quota):
        return describe_quota(value).replace(",", "")
    return [written(item) for item in value] if isinstance(value, tuple) else value


def kind_name(kind: Any) -> str:
    """Name a setting's type for people."""
    origin = get_origin(kind)
    if origin is tuple:
        return f"list of {kind_name(get_args(kind)[0])}"
    options = get_args(kind)
    if options:
        return " or ".join(f'"{option}"' if isinstance(option, str) else kind_name(option) for option in options)
    return {str: "text", int: "whole number", float: "duration", bool: "true or false", Quota: "quota",
            type(None): "absent"}.get(kind, getattr(kind, "__name__", str(kind)))  # fmt: skip
