"""From a file, the environment and flags to a typed policy.

Precedence: defaults < file < environment < flags. Every error names where the wrong value stands, and what to write.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from corral.errors import PolicyError
from corral.policy.model import ApiKey, Policy, Quota
from corral.policy.notation import parse_duration, parse_price, parse_quota, parse_share, parse_size, parse_weight
from corral.policy.positions import find_lines
from corral.policy.rules import check
from corral.policy.servers import said_twice

ENVIRONMENT_KEY = "CORRAL_API_KEY"
ADMIN_KEY = "CORRAL_ADMIN_KEY"
_NOT_SETTINGS = frozenset((ENVIRONMENT_KEY, ADMIN_KEY, "CORRAL_LLAMA_SERVER"))
_SHORTEST_ADMIN_KEY = 16

LONGEST = 1024 * 1024
"""The longest policy, in bytes."""

_WRITE_ONE = "A policy is a TOML file; `corral init` writes one."

_AT_LINE = re.compile(r"\(at line (\d+)")
_BARE_TEXT = re.compile(r"\s*([\w.-]{1,64})\s*=\s*([A-Za-z][\w./:-]{0,63})\s*(?:#.*)?$", re.ASCII)

KeyPath = tuple[str | int, ...]


class Source:
    """Where the values of one policy came from, for messages."""

    def __init__(self, name: str, lines: Mapping[KeyPath, int], flags: Mapping[str, str]) -> None:
        self._name = name
        self._lines = lines
        self._flags = flags
        self._wrong: list[tuple[int, str]] = []

    def note(self, path: KeyPath, message: str) -> None:
        """Keep the error for the value at `path`, so that all of them can be told together."""
        self._wrong.append((self._line(path), str(self.error(path, message))))

    def tell(self) -> None:
        """Raise PolicyError with every error kept, in the file's order; nothing happens where there is none."""
        if self._wrong:
            raise PolicyError("\n".join(text for _, text in sorted(self._wrong, key=lambda kept: kept[0])))

    def error(self, path: KeyPath, message: str) -> PolicyError:
        """Build the error for the value at `path`."""
        dotted = dotted_name(path)
        if dotted in self._flags:
            return PolicyError(f"{self._flags[dotted]}: {message}")
        line = self._line(path)
        where = f"{self._name}, line {line}" if line else self._name
        return PolicyError(f"{where}: {dotted}: {message}" if dotted else f"{where}: {message}")

    def _line(self, path: KeyPath) -> int:
        """Find the line of the value at `path`, or of what it stands in; 0 where it is not in the file."""
        return next((self._lines[path[:size]] for size in range(len(path), 0, -1) if path[:size] in self._lines), 0)


def dotted_name(path: KeyPath) -> str:
    """Write a path as people do: limits[0].quota."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def load_policy(
    path: Path | None = None,
    *,
    text: str | None = None,
    overrides: Mapping[str, object] | None = None,
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Policy:
    """Load a policy from `path` (or `text`), the environment and flags; from nothing at all, the defaults.

    `overrides` maps "section.key" to a value in the file's notation; `flags` maps the same names to what the flag is
    called, for messages.

    Raises:
        PolicyError: something is wrong; the message names the file, the key and the line, and what to write. Where
            several things are, each stands on a line of its own, in the file's order.

    """
    name = str(path) if path is not None else "the policy"
    if text is None:
        text = _read(path) if path is not None else ""
    table = _parse(name, text)
    named = dict(flags or {})
    for variable, value in sorted((environ or {}).items()):
        if variable.startswith("CORRAL_") and variable not in _NOT_SETTINGS:
            key = _setting_of(variable)
            _put(table, key, _typed(key, value))
            named[key] = f"the environment's {variable}"
    for key, given in (overrides or {}).items():
        _put(table, key, given)
        named.setdefault(key, key)
    source = Source(name, find_lines(text), named)
    for twice, message in said_twice(table):
        source.note(twice, message)
    policy: Policy = _build(Policy, table, (), source)
    source.tell()
    policy = _with_environment_key(policy, (environ or {}).get(ENVIRONMENT_KEY))
    policy = _with_admin_key(policy, (environ or {}).get(ADMIN_KEY))
    for problem_path, message in check(policy):
        source.note(problem_path, message)
    source.tell()
    return policy


def source_of(path: Path | None, *, flags: Mapping[str, str] | None = None, environ: Mapping[str, str]) -> Source:
    """Say where the values of a policy came from that was loaded before: for what is wrong only as it would run."""
    named = dict(flags or {})
    for variable in environ:
        if variable.startswith("CORRAL_") and variable not in _NOT_SETTINGS:
            named.setdefault(_setting_of(variable), f"the environment's {variable}")
    text = _read(path) if path is not None else ""
    return Source(str(path) if path is not None else "the policy", find_lines(text), named)


def written_settings(path: Path | None, environ: Mapping[str, str]) -> frozenset[str]:
    """Name the settings that a file and the environment give, as "section.key", also those given their default.

    Raises:
        PolicyError: as `load_policy` does.

    """
    table = _parse(str(path), _read(path)) if path is not None else {}
    variables = (name for name in environ if name.startswith("CORRAL_") and name not in _NOT_SETTINGS)
    return frozenset((
        *(f"{section}.{name}" for section, inner in table.items() if isinstance(inner, dict) for name in inner),
        *(section for section, value in table.items() if not isinstance(value, dict)),
        *map(_setting_of, variables),
    ))  # fmt: skip


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
        if len(data) > LONGEST:
            raise PolicyError(f"{path} is no policy: it has more than 1 MiB. {_WRITE_ONE}")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise PolicyError(f"{path} does not exist. `corral init {path}` writes one.") from None
    except IsADirectoryError:
        raise PolicyError(f"{path} is a directory: name the policy in it, as {path / 'corral.toml'}.") from None
    except UnicodeDecodeError:
        raise PolicyError(f"{path} cannot be read as a policy: it is no text. {_WRITE_ONE}") from None
    except OSError as error:
        raise PolicyError(f"{path} cannot be read: {error.strerror}.") from error


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{name}: this is not valid TOML: {error}.{_quotes_missing(text, error)}") from error
    except (RecursionError, ValueError):  # tomllib passes on what Python says of numbers without end
        raise PolicyError(
            f"{name}: this cannot be read: it nests too deep, or has a number that is too long."
        ) from None


def _quotes_missing(text: str, error: tomllib.TOMLDecodeError) -> str:
    """Say how a text is written where the line that is wrong gives one without quotes."""
    line = _AT_LINE.search(str(error))
    number = int(line[1]) if line else 0
    bare = _BARE_TEXT.match(text.splitlines()[number - 1]) if 0 < number <= len(text.splitlines()) else None
    return f' A text stands in quotes, as {bare[1]} = "{bare[2]}".' if bare else ""


def _setting_of(variable: str) -> str:
    """Find the setting that an environment variable names: CORRAL_LISTEN_ADDRESS is listen.address."""
    known: dict[str, str] = {}
    hints = get_type_hints(Policy)
    for section in fields(Policy):
        kind = hints[section.name]
        if is_dataclass(kind) and kind is not Quota:
            known.update({f"CORRAL_{section.name}_{f.name}".upper(): f"{section.name}.{f.name}" for f in fields(kind)})
        elif get_origin(kind) not in (tuple, Mapping):
            known[f"CORRAL_{section.name}".upper()] = section.name
    if variable in known:
        return known[variable]
    for section in fields(Policy):
        if variable == f"CORRAL_{section.name}".upper():
            raise PolicyError(
                f"The environment's {variable} cannot be: {section.name} are lists and tables, "
                "which the policy's file alone can say."
            )
    near = get_close_matches(variable, known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise PolicyError(f"The environment's {variable} is no setting of Corral.{hint}")


def _typed(key: str, value: str) -> object:
    """Give an environment variable's text the type that its setting wants, where that is no text."""
    kind: Any = Policy
    for part in key.split("."):
        kind = get_type_hints(kind)[part]
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if bool in options and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if int in options or float in options:
        try:
            return int(value)
        except ValueError:
            return value
    if get_origin(kind) is tuple:
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _put(table: dict[str, Any], key: str, value: object) -> None:
    section, dot, name = key.partition(".")
    if not dot:
        table[section] = value
    elif isinstance(table.setdefault(section, {}), dict):
        table[section][name] = value


def _build(kind: type[Any], table: object, path: KeyPath, source: Source) -> Any:
    """Build the dataclass `kind` from a TOML table. What is wrong is noted in `source`, and None stands for it."""
    if not isinstance(table, dict):
        source.note(path, f"this must be a table, written as [{dotted_name(path)}].")
        return None
    hints = get_type_hints(kind)
    known = {known.name: known for known in fields(kind)}
    for name in table:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f'Did you mean "{near[0]}"?' if near else f"Known here: {', '.join(known)}."
            source.note((*path, name), f"there is no such setting. {hint}")
    values = {}
    for name, described in known.items():
        if name in table:
            values[name] = _convert(hints[name], described, table[name], (*path, name), source)
        elif described.default is MISSING and described.default_factory is MISSING:
            source.note((*path, name), f"this is missing. {described.metadata['help']}")
            values[name] = None
    return kind(**values)


def _convert(kind: Any, described: Field[Any], value: object, path: KeyPath, source: Source) -> Any:
    """Convert one TOML value to the type that its setting has; see `_build` for what is wrong."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        kind = _option(kind, value)
        origin = get_origin(kind)
    if origin is tuple:
        if not isinstance(value, list):
            tables = is_dataclass(get_args(kind)[0])
            source.note(path, f"this must be a list{f', written as [[{dotted_name(path)}]]' if tables else ''}.")
            return None
        (inner, _) = get_args(kind)
        return tuple(_convert(inner, described, item, (*path, index), source) for index, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise source.error(path, f"this must be tables, each written as [{dotted_name(path)}.NAME].")
        (_, inner) = get_args(kind)
        return {name: _convert(inner, described, item, (*path, name), source) for name, item in value.items()}
    if origin is Literal:
        options = get_args(kind)
        if value not in options:
            source.note(path, f"{value!r} is not known here. Write {_either(options)}.")
        return value
    if kind is not Quota and is_dataclass(kind):
        return _build(kind, value, path, source)  # type: ignore[arg-type]  # a class, as get_type_hints gives it
    try:
        return _scalar(kind, described.metadata.get("unit", ""), value)
    except PolicyError as error:
        source.note(path, str(error))
        return None


def _option(kind: Any, value: object) -> Any:
    """Choose what a setting of several types is here: a list where one is written and may be, else the first."""
    options = [option for option in get_args(kind) if option is not NoneType]
    lists = [option for option in options if get_origin(option) is tuple]
    return lists[0] if lists and isinstance(value, list) else options[0]


def _scalar(kind: Any, unit: str, value: object) -> object:
    if kind is Quota:
        return parse_quota(value)
    if kind is float and unit == "share":
        return parse_share(value)
    if kind is float and unit == "weight":
        return parse_weight(value)
    if kind is float and unit == "price":
        return parse_price(value)
    if kind is float:
        return parse_duration(value)
    if kind is int and unit == "bytes":
        return parse_size(value)
    if type(value) is kind:
        return value
    wanted = {int: "a whole number, as 10", bool: "true or false", str: 'a text in quotes, as "…"'}[kind]
    given = f'"{value[:40]}"' if isinstance(value, str) else type(value).__name__
    raise PolicyError(f"this must be {wanted}, not {given}.")


def _either(options: tuple[object, ...]) -> str:
    return " or ".join(f'"{option}"' for option in options)


def _with_environment_key(policy: Policy, secret: str | None) -> Policy:
    if not secret:
        return policy
    key = ApiKey(name="environment", sha256=sha256(secret.encode()).hexdigest())
    if any(known.sha256.lower() == key.sha256 for known in policy.keys):
        return policy
    return replace(policy, keys=(*policy.keys, key))


def _with_admin_key(policy: Policy, secret: str | None) -> Policy:
    """Take the admin key of the environment, where there is an admin listener: else it is for `corral top` alone."""
    if not secret or policy.admin.listen is None:
        return policy
    if len(secret) < _SHORTEST_ADMIN_KEY:
        raise PolicyError(
            f"The environment's {ADMIN_KEY} is too short to be safe: it has less than {_SHORTEST_ADMIN_KEY} "
            "characters. `openssl rand -hex 32` writes one."
        )
    return replace(policy, admin=replace(policy.admin, key_sha256=sha256(secret.encode()).hexdigest()))
