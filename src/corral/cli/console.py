"""Where commands print: plain when piped, coloured on a terminal, silent when asked."""

import os
import re
import sys
from typing import Any, NoReturn

import orjson
from rich.console import Console

_BROKEN_PIPE = 141
"""The status of a program that SIGPIPE ended, as a shell spells it."""

_NEXT_LINE = re.compile(r"\n(?=\S)")


class _Console(Console):
    """A console whose reader may leave, as `head` does."""

    def on_broken_pipe(self) -> None:
        """End quietly."""
        end_unread()


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Build a console. NO_COLOR is honoured; what is piped is neither coloured nor wrapped."""
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    return _Console(
        stderr=stderr, quiet=quiet, soft_wrap=not terminal, highlight=False, width=None if terminal else 200
    )


def print_json(value: Any) -> None:
    """Print `value` as indented JSON on standard output."""
    data = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        end_unread()


def end_unread() -> NoReturn:
    """End as other programs do whose standard output nobody reads any more: at once, and without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered must go somewhere
    sys.exit(_BROKEN_PIPE)


def prefixed(text: str, prefix: str = "corral: ") -> str:
    """Put `prefix` before each further line, but for what is set in, and belongs to the line before."""
    return _NEXT_LINE.sub(lambda _: f"\n{prefix}", text)
