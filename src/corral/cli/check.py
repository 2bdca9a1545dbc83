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
    try:
        said, warned = _read(path)
    except PolicyError as error:
        if not as_json:
            raise
        print_json({"ok": False, "error": str(error), "explanation": [], "warnings": []})
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print_json({"ok": True, "error": None, "explanation": said, "warnings": warned})
        return
    from rich.markup import escape  # noqa: PLC0415  # as above

    out = console()
    out.print(f"[bold green]{escape(str(path))} is valid.[/]")
    for sentence in said:
        out.print(f"  {sentence}", markup=False)
    for sentence in warned:
        out.print(f"[bold yellow]warning:[/] {escape(sentence)}")


def _read(path: Path) -> tuple[list[str], list[str]]:
    """Read the policy as the guard does, with the same key store, and say what it will do and what is unwise."""
    from corral.cli.resolved import look_at_files, resolve  # noqa: PLC0415  # keeps `corral --version` fast
    from corral.cli.serving import store_notes  # noqa: PLC0415  # as above
    from corral.guard.key_store import default_path  # noqa: PLC0415  # as above
    from corral.policy.explain import explain, warnings  # noqa: PLC0415  # as above
    from corral.policy.load import load_policy  # noqa: PLC0415  # as above

    written = load_policy(path, environ=os.environ)
    store = default_path(os.environ)
    policy, made = resolve(written, path, store=store, environ=os.environ)
    look_at_files(policy, path)
    if made is not None:
        return explain(written), warnings(written)
    said = explain(policy)
    if written.auth == "auto" and policy.auth == "none":
        said.append(f"Keys were looked for in the policy and in {store}: there are none.")
    return said, [*warnings(policy), *store_notes(policy, store)]
