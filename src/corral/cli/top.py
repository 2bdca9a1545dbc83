"""`corral top`: watch a guard while it runs."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from corral.cli.console import console, print_json
from corral.errors import UsageError

_KEY = "CORRAL_ADMIN_KEY"
_MOST = 20  # entries of each list where they are printed once

_EPILOG = "Examples: corral top · corral top 127.0.0.1:9464 --interval 1 · corral top --json --key-file admin.key"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("top", epilog=_EPILOG)(top)


def top(
    address: Annotated[
        str, typer.Argument(metavar="[HOST:PORT]", help="Where the guard's admin API answers: admin.listen.")
    ] = "127.0.0.1:9464",
    *,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file",
            metavar="FILE",
            help="Read the admin key from a file; else it is the environment's CORRAL_ADMIN_KEY. There is no option "
            "for the key itself: everybody on this machine can read command lines.",
            show_default=False,
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.2, max=3600.0, help="Time between two looks.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and print it, as when it is piped.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Look twice, --interval apart, and print JSON.")] = False,
) -> None:
    """Watch a guard: clients by use, what runs and waits, its servers, and how much is admitted and refused.

    The guard must have an admin listener (`--admin 127.0.0.1:9464`) and an admin key. `q` or Ctrl-C ends this.
    """
    from corral.top.admin_client import AdminClient  # noqa: PLC0415  # keeps `corral --version` fast
    from corral.top.live import follow  # noqa: PLC0415  # as above
    from corral.top.once import look_twice  # noqa: PLC0415  # as above
    from corral.top.screen import screen  # noqa: PLC0415  # as above

    with AdminClient(address, _read_key(key_file)) as client:
        if as_json:
            print_json(look_twice(client, interval))
        elif once or not sys.stdout.isatty():
            console().print(screen(client.look(_MOST), None, most=_MOST))
        else:
            follow(client, console(), interval)


def _read_key(path: Path | None) -> str:
    if path is not None:
        from corral.guard.resolve import read_key_file  # noqa: PLC0415  # keeps `corral --version` fast

        return read_key_file(str(path))[0]
    key = os.environ.get(_KEY, "")
    if not key:
        raise UsageError(
            f"The admin API takes a key: set the environment's {_KEY}, as where the guard was started, or name a file "
            "that holds it with --key-file."
        )
    return key
