"""`corral init`: write a commented policy."""

import os
from pathlib import Path
from typing import Annotated

import typer

from corral.cli.console import console, print_json
from corral.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("init", epilog="Example: corral init && corral check")(init)


def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("corral.toml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a corral.toml in which every setting stands commented, with its default."""
    from corral.policy.template import template  # noqa: PLC0415  # keeps `corral --version` fast

    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} is there already. --force writes over it.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(template())
    if as_json:
        print_json({"path": str(path)})
    else:
        console().print(
            f"Wrote {path}. Next: edit it, see what it does with `corral check {path}`, and use it: "
            f"`corral guard --policy {path}` or `corral run --policy {path} -- llama-server -m model.gguf`.",
            markup=False,
        )
