"""The reference page of all settings, made from the model."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from corral.policy.model import Policy, Quota
from corral.policy.template import kind_name, literal

_HEAD = """\
# Settings

Everything that `corral.toml` may say. `corral init` writes it all into a file, `corral check --schema` prints it as a
JSON Schema for editors. Durations are written as `"20s"` or `"5m"` (a bare number is seconds), sizes as `"1MiB"`
(a bare number is bytes), quotas as `"30/minute"`.

A setting outside a list is also read from the environment, as `CORRAL_LISTEN_ADDRESS` for `listen.address`. What stands
in a file goes before the defaults, the environment before the file, and options of the command line before all.
"""


def reference() -> str:
    """Write the page, in Markdown: a heading and a table for each section, a row for each setting."""
    hints = get_type_hints(Policy)
    plain = [f for f in fields(Policy) if _section(hints[f.name]) is None]
    parts = [_HEAD, "\n".join(_table(plain, hints))]
    for described in fields(Policy):
        found = _section(hints[described.name])
        if found is not None:
            heading, kind = found
            title = heading.format(described.name)
            parts.append(f"## `{title}`\n\n{described.metadata['help']}\n")
            parts.append("\n".join(_table(fields(kind), get_type_hints(kind))))
    return "\n".join(parts)


def _section(kind: Any) -> tuple[str, Any] | None:
    """Find how a section is headed and of what class it is; None for a plain setting."""
    if get_origin(kind) is Mapping:
        return "[{}.NAME]", get_args(kind)[1]
    if get_origin(kind) is tuple and is_dataclass(get_args(kind)[0]):
        return "[[{}]]", get_args(kind)[0]
    return ("[{}]", kind) if is_dataclass(kind) and kind is not Quota else None


def _table(settings: Any, hints: Mapping[str, Any]) -> Iterator[str]:
    yield "| setting | type | default | meaning |\n| --- | --- | --- | --- |"
    for described in settings:
        unit = described.metadata["unit"]
        name = "number" if unit in ("price", "share", "weight") else _type_name(hints[described.name])
        kind = name + (f", {unit}" if unit else "")
        said = described.metadata["help"].replace("|", "\\|")
        yield f"| `{described.name}` | {kind} | {_default(described)} | {said} |"
    yield ""


def _type_name(kind: Any) -> str:
    if get_origin(kind) is tuple and is_dataclass(get_args(kind)[0]):
        return "list of tables"
    return kind_name(kind).replace(" or absent", "")


def _default(described: Field[Any]) -> str:
    if described.default is MISSING:
        return "none" if described.default_factory is not MISSING else "must be given"
    if described.default is None:
        return "absent"
    if isinstance(described.default, tuple) and described.default and is_dataclass(described.default[0]):
        return "see `corral init`"
    return f"`{literal(described.default)}`"
