"""Where commands print: plain when piped, coloured on a terminal, silent when asked."""

import sys
from typing import Any

import orjson
from rich.console import Console


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Build a console. NO_COLOR is honoured; what is piped is neither coloured nor wrapped."""
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    return Console(stderr=stderr, quiet=quiet, soft_wrap=not terminal, highlight=False, width=None if terminal else 200)


def print_json(value: Any) -> None:
    """Print `value` as indented JSON on standard output."""
    data = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    sys.stdout.buffer.write(data)
    sys.stdout.flush()
