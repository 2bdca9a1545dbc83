"""What `--help` says arrives as it was written: square brackets are text, not markup."""

from collections.abc import Iterator

import click
import pytest
import typer
from rich.text import Text

from corral.cli import app


def written(command: click.Command) -> Iterator[str]:
    """Every text that a command's help shows, and that of the commands below it."""
    yield from (text for text in (command.help, command.epilog) if text)
    for parameter in command.params:
        yield getattr(parameter, "help", None) or ""
    for below in getattr(command, "commands", {}).values():
        yield from written(below)


@pytest.mark.parametrize("text", sorted(set(written(typer.main.get_command(app)))))
def test_no_text_is_taken_for_markup(text: str) -> None:
    assert Text.from_markup(text).plain == text.replace("\\[", "[")
