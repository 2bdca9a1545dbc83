"""Where each key of a TOML text stands, so that an error can name its line."""

import re

Path = tuple[str | int, ...]

_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
_ARRAY = re.compile(r"\s*\[\[\s*([^\[\]]+?)\s*\]\]\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


def find_lines(text: str) -> dict[Path, int]:
    """Map each key's path to its line, counted from 1; entries of `[[tables]]` are numbered from 0.

    The parser proper judges the text; this only finds places, and finds fewer in what is not TOML.
    """
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    here: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        if match := _ARRAY.match(line):
            name = _parts(match[1])
            counts[name] = counts.get(name, -1) + 1
            here = (*name, counts[name])
            lines.setdefault(here, number)
        elif match := _TABLE.match(line):
            here = _parts(match[1])
            lines.setdefault(here, number)
        elif match := _KEY.match(line):
            lines.setdefault((*here, *_parts(match[1])), number)
    return lines


def _parts(dotted: str) -> Path:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))
