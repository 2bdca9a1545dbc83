"""The command line: one module a command, and no logic.

Exit codes: 0 all went well; 1 a scan found what --fail-on names; 2 the command line or the policy is wrong; 3 a
server could not be reached, started or graded; 128 + N ended by signal N, as 130 by Ctrl-C. `corral run` ends with its
server's status.
"""

import sys
from typing import Annotated

import typer

from corral import __version__
from corral.cli import check, demo, guard, init, keys, run, scan, top
from corral.errors import CorralError

COMMANDS = (scan, guard, run, keys, top, init, check, demo)

_EPILOG = (
    "Exit codes: 0 all went well · 1 a scan found what --fail-on names · 2 the command line or the policy is wrong · "
    "3 a server could not be reached, started or graded · 128 + N ended by signal N, as 130 by Ctrl-C. `corral run` "
    "ends with its server's status."
)

app = typer.Typer(
    name="corral",
    help="Keep a self-hosted Llama endpoint standing: scan it from outside, guard it from inside.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in COMMANDS:
    _module.register(app)


def _version(asked: bool) -> None:  # noqa: FBT001  # typer calls it with the option's value
    if asked:
        typer.echo(f"corral {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options that stand before a command."""


def main() -> None:
    """Run the command line. A user's mistake ends in one message and an exit code, never in a traceback."""
    try:
        app()
    except CorralError as error:
        from corral.cli.console import console, prefixed  # noqa: PLC0415  # rich is loaded only when there is something to say

        said = "[bold red]corral:[/] "
        console(stderr=True).print(f"{said}{prefixed(_escaped(error), said)}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _escaped(error: CorralError) -> str:
    from rich.markup import escape  # noqa: PLC0415  # as above

    return escape(str(error))
