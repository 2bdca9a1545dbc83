"""`corral check`: validate a policy and say in words what it will do."""

import os
from pathlib import Path
from typing import Annotated

import typer

from corral.cli.console import console, print_json
from corral.errors import PolicyError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check", epilog="Example: corral check corral.toml --json")(check)


def check(
    path: Annotated[Path, typer.Argument(help="The policy to read.")] = Path("corral.toml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of policies instead, for editors; read none.")
    ] = False,
) -> None:
    """Validate a policy, and say in words what the guard will do."""
    if as_schema:
        from corral.policy.schema import schema  # noqa: PLC0415  # keeps `corral --version` fast

        print_json(schema())
        return
    from corral.policy.explain import explain, warnings  # noqa: PLC0415  # keeps `corral --version` fast
    from corral.policy.load import load_policy  # noqa: PLC0415  # as above

    try:
        policy = load_policy(path, environ=os.environ)
    except PolicyError as error:
        if not as_json:
            raise
        print_json({"ok": False, "error": str(error), "explanation": [], "warnings": []})
        raise typer.Exit(error.exit_code) from None
    said, warned = explain(policy), warnings(policy)
    if as_json:
        print_json({"ok": True, "error": None, "explanation": said, "warnings": warned})
        return
    out = console()
    out.print(f"[bold green]{path} is valid.[/]")
    for sentence in said:
        out.print(f"  {sentence}", markup=False)
    for sentence in warned:
        out.print(f"[bold yellow]warning:[/] {sentence}")
