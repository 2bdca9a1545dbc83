"""`corral keys`: make, list, replace and revoke the API keys of a store."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli.console import console, print_json
from corral.errors import PolicyError, UsageError

if TYPE_CHECKING:
    from corral.guard.key_desk import KeyDesk, Made
    from corral.guard.key_store import StoredKey
    from corral.policy.model import Policy

_PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", metavar="FILE", help="The policy that names the store and the plans.", show_default=False),
]
_StoreFile = Annotated[
    str | None,
    typer.Option("--store", metavar="FILE", help="The store, in the place of the policy's.", show_default=False),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Expires = Annotated[
    str | None, typer.Option("--expires", metavar="DURATION", help='When it ends, as "90d".', show_default=False)
]

_GRACE = "24h"
_ONCE = "It is shown once and kept nowhere."

keys = typer.Typer(
    help="Make, list, replace and revoke API keys, while the guard runs.",
    epilog="Example: corral keys create --name alice --expires 90d",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the command and its own commands."""
    app.add_typer(keys, name="keys")


@keys.command("create", epilog="Example: corral keys create --name alice --plan pro --policy corral.toml")
def create(
    *,
    name: Annotated[str, typer.Option("--name", help="Who holds it: shown in logs in the key's stead.")],
    plan: Annotated[
        str | None, typer.Option("--plan", help=r"The policy's \[plan.NAME] that it is on.", show_default=False)
    ] = None,
    expires: _Expires = None,
    admin: Annotated[bool, typer.Option("--admin", help="Opens the admin API and state routes.")] = False,
    policy: _PolicyFile = None,
    store: _StoreFile = None,
    as_json: _AsJson = False,
) -> None:
    """Make a key, and show it once."""
    from corral.guard.key_store import KeyStore  # noqa: PLC0415  # keeps `corral --version` fast

    read, path = _read(policy, store)
    lifetime = _lifetime(expires, "--expires")
    is_new = not path.exists()
    with KeyStore.create(path) as opened:
        made = _desk(opened, read).create(name, time.time(), plan=plan, admin=admin, lifetime=lifetime)
    if as_json:
        print_json({**_shown(made.key), "key": made.secret, "store": str(path)})
        return
    _print_made(made, f"Made a key for {name}")
    if is_new:
        sentence = (
            f"Made the store {path}, too. A guard whose store this is lets the key in within a second; a guard that "
            "asks nobody for keys has to be started anew."
        )
        console(stderr=True).print(sentence, markup=False)


@keys.command("list", epilog="Example: corral keys list --json")
def list_keys(
    *,
    policy: _PolicyFile = None,
    store: _StoreFile = None,
    as_json: _AsJson = False,
) -> None:
    """List the keys: who holds them, how they begin, and until when they are valid."""
    from corral.guard.key_store import KeyStore  # noqa: PLC0415  # keeps `corral --version` fast

    _, path = _read(policy, store)
    now = time.time()
    with KeyStore.open(path) as opened:
        found = opened.all()
    if as_json:
        print_json({"store": str(path), "keys": [_shown(key, now) for key in found]})
    elif not found:
        console().print(f"{path} holds no key.", markup=False)
    else:
        _print_table(found, now)


@keys.command("revoke", epilog="Example: corral keys revoke alice")
def revoke(
    which: Annotated[str, typer.Argument(metavar="NAME|PREFIX", help="Whose keys, or how the key begins: crl_…")],
    *,
    policy: _PolicyFile = None,
    store: _StoreFile = None,
    as_json: _AsJson = False,
) -> None:
    """Revoke keys: within a second no guard lets anybody in with them."""
    from corral.guard.key_store import KeyStore  # noqa: PLC0415  # keeps `corral --version` fast

    read, path = _read(policy, store)
    now = time.time()
    with KeyStore.open(path) as opened:
        revoked = _desk(opened, read).revoke(which, now)
    if as_json:
        print_json({"store": str(path), "revoked": [_shown(key, now) for key in revoked]})
        return
    for key in revoked:
        console().print(f"Revoked {key.prefix}… of {key.name}.", markup=False)


@keys.command("rotate", epilog="Example: corral keys rotate alice --grace 1h")
def rotate(
    name: Annotated[str, typer.Argument(help="Whose key.")],
    *,
    grace: Annotated[str, typer.Option("--grace", metavar="DURATION", help="How long the old key lives on.")] = _GRACE,
    expires: _Expires = None,
    policy: _PolicyFile = None,
    store: _StoreFile = None,
    as_json: _AsJson = False,
) -> None:
    """Replace a key: the new one is shown once, the old one is valid for a time of grace."""
    from corral.guard.key_store import KeyStore  # noqa: PLC0415  # keeps `corral --version` fast

    read, path = _read(policy, store)
    lifetime = _lifetime(expires, "--expires")
    patience = _duration(grace, "--grace")
    now = time.time()
    with KeyStore.open(path) as opened:
        rotated = _desk(opened, read).rotate(name, now, grace=patience, lifetime=lifetime)
    if as_json:
        old = [_shown(key, now) for key in rotated.replaced]
        print_json({**_shown(rotated.made.key), "key": rotated.made.secret, "store": str(path), "replaced": old})
        return
    _print_made(rotated.made, f"Made a new key for {name}")
    for key in rotated.replaced:
        sentence = f"The old key {key.prefix}… is valid until {_moment(key.expires)}."
        console(stderr=True).print(sentence, markup=False)


def _read(policy: Path | None, store: str | None) -> "tuple[Policy, Path]":
    """Read the policy, and find the store: the option, else the policy, else the default."""
    from corral.guard.key_store import default_path  # noqa: PLC0415  # keeps `corral --version` fast
    from corral.policy.load import load_policy  # noqa: PLC0415  # as above

    named = {} if store is None else {"credentials.store": store}
    read = load_policy(policy, environ=os.environ, overrides=named, flags=dict.fromkeys(named, "--store"))
    path = read.credentials.store
    if path == "":
        raise UsageError('The policy keeps no keys: credentials.store is "". Name a file there, or with --store FILE.')
    return read, Path(path) if path is not None else default_path(os.environ)


def _desk(opened: Any, read: "Policy") -> "KeyDesk":
    from corral.guard.key_desk import KeyDesk  # noqa: PLC0415  # keeps `corral --version` fast

    return KeyDesk(opened, read)


def _lifetime(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    seconds = _duration(text, option)
    if seconds <= 0:
        raise UsageError(f"{option}: a key that is never valid is of no use.")
    return seconds


def _duration(text: str, option: str) -> float:
    from corral.policy.notation import parse_duration  # noqa: PLC0415  # keeps `corral --version` fast

    try:
        return parse_duration(float(text) if text.replace(".", "", 1).isdecimal() else text)
    except PolicyError as error:
        raise UsageError(f"{option}: {error}") from None


def _moment(at: float | None) -> str | None:
    """Spell a time as RFC 3339 in UTC."""
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _status(key: "StoredKey", now: float) -> str:
    if key.revoked is not None:
        return "revoked"
    return "valid" if key.is_valid(now) else "expired"


def _shown(key: "StoredKey", now: float | None = None) -> dict[str, object]:
    shown: dict[str, object] = {
        "name": key.name,
        "prefix": key.prefix,
        "plan": key.plan,
        "admin": key.admin,
        "created": _moment(key.created),
        "expires": _moment(key.expires),
    }
    if now is not None:
        shown |= {"revoked": _moment(key.revoked), "status": _status(key, now)}
    return shown


def _print_made(made: "Made", what: str) -> None:
    """Print the key alone on standard output, so that it can be piped; the rest is said beside it."""
    end = f", valid until {_moment(made.key.expires)}" if made.key.expires is not None else ""
    console(stderr=True).print(f"{what}{end}. {_ONCE}", markup=False)
    typer.echo(made.secret)


def _print_table(found: "list[StoredKey]", now: float) -> None:
    """Print a table on a terminal, and tab-separated lines into a pipe."""
    names = ("NAME", "KEY", "PLAN", "ADMIN", "CREATED", "EXPIRES", "STATUS")
    rows = [
        (
            key.name,
            f"{key.prefix}…",
            key.plan or "-",
            "yes" if key.admin else "-",
            _moment(key.created) or "-",
            _moment(key.expires) or "never",
            _status(key, now),
        )
        for key in found
    ]
    out = console()
    if not out.is_terminal:
        for row in (names, *rows):
            typer.echo("\t".join(row))
        return
    from rich.table import Table  # noqa: PLC0415  # loaded only for people
    from rich.text import Text  # noqa: PLC0415  # as above

    table = Table(*(name.capitalize() for name in names), box=None, pad_edge=False)
    for row in rows:
        style = "" if row[-1] == "valid" else "dim"
        table.add_row(*(Text(cell, style) for cell in row))
    out.print(table)
