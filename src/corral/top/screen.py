"""What is shown of a guard: a line of sums, and tables of clients, requests, the queue and the servers.

Names of models are the clients' own words, and whoever reads them sits at a terminal: only what can be printed passes.
"""

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from corral.top.admin_client import Snapshot
from corral.top.rates import Rates

_LONGEST = 40
_LINES_BESIDES = 18
"""Lines that are no rows of tables: sums, headings, and what stands between."""


def rows_that_fit(height: int) -> int:
    """Say how many rows each of the long tables may have on a screen of `height` lines."""
    return max(3, (height - _LINES_BESIDES) // 3)


def screen(now: Snapshot, rates: Rates | None, *, most: int, note: str = "") -> RenderableType:
    """Lay everything out; `note` is a last line, as of what went wrong."""
    parts: list[RenderableType] = [_sums(now, rates), Text()]
    parts += _section(
        f"Clients by use ({now.clients['counted']} counted)",
        ("CLIENT", "LIMIT", "USED", "LEFT", "RESET"),
        map(_client, now.clients["clients"][:most]),
    )
    parts += _section(
        f"Requests ({now.requests['count']})",
        ("ID", "CLIENT", "ROUTE", "MODEL", "STATE", "AGE", "TOKENS", "MOST"),
        map(_request, now.requests["requests"][:most]),
    )
    parts += _section(
        f"Queue ({now.queue['waiting']} of {now.queue['max_waiting']})",
        ("CLIENT", "WAITING", "LONGEST", "BYTES"),
        map(_waiting, now.queue["clients"][:most]),
    )
    parts += _section(
        "Servers", ("SERVER", "STATE", "RUNNING", "CONNECTIONS", "URL"), map(_server, now.upstreams["upstreams"])
    )
    if note:
        parts.append(Text(plain(note, 1000), "red"))
    return Group(*parts)


def _sums(now: Snapshot, rates: Rates | None) -> Text:
    status = now.status
    line = Text(f"corral {plain(status['version'])}", "bold")
    if status["draining"]:
        line.append("  DRAINING", "bold yellow")
    line.append(
        f"  up {_span(status['uptime'])}  running {status['running']} of {status['max_running']}  "
        f"waiting {status['waiting']} of {status['max_waiting']}  connections {status['connections']}",
        "not bold",
    )
    ended = status["ended"]
    line.append(
        f"\nsince the start: {ended['answered']} answered, {ended['failed']} failed, {ended['refused']} refused"
    )
    if rates is not None:
        line.append(
            f"\nnow: {rates.admitted:.1f} admitted/s, {rates.refused:.1f} refused/s, {rates.tokens:.1f} tokens/s"
        )
    return line


def _section(title: str, names: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[RenderableType]:
    table = Table(*names, box=None, pad_edge=False, header_style="dim")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return [Text(title, "bold"), table if table.row_count else Text("none", "dim"), Text()]


def _client(entry: dict[str, Any]) -> tuple[str, ...]:
    quota, remaining = entry["quota"], entry["remaining"]
    return (
        _whom(entry),
        plain(entry["limit"]) + (" (shadow)" if entry["shadow"] else ""),
        f"{100 * (1 - remaining / quota):.0f} %",
        f"{_number(remaining)} of {_number(quota)} {plain(entry['unit'])}",
        _span(entry["reset"]) if entry["window"] else "-",
    )


def _request(entry: dict[str, Any]) -> tuple[str, ...]:
    return (
        plain(entry["id"]),
        plain(entry["client"]),
        plain(entry["route"]),
        plain(entry["model"] or "-"),
        plain(entry["state"]),
        _span(entry["age"]),
        "-" if entry["tokens"] is None else str(entry["tokens"]),
        str(entry["max_tokens"] or "-"),
    )


def _waiting(entry: dict[str, Any]) -> tuple[str, ...]:
    return plain(entry["client"]), str(entry["waiting"]), _span(entry["longest"]), str(entry["bytes"])


def _server(entry: dict[str, Any]) -> tuple[str, ...]:
    state = "up" if entry["up"] else f"down: {entry['problem'] or 'not known why'}"
    running = f"{entry['running']} of {entry['slots']}"
    return plain(entry["name"]), plain(state), running, str(entry["connections"]), plain(entry["url"])


def _whom(entry: dict[str, Any]) -> str:
    """Name whom a limit counts; of a key how it begins too, which tells it from others of its name."""
    beginning = entry.get("key_prefix")
    return name_of(entry["partition"]) + (f" {plain(beginning)}…" if beginning else "")


def _number(amount: float) -> str:
    """Write an amount as it is counted: 3, 0.125, 19.999958."""
    return f"{amount:.6f}".rstrip("0").rstrip(".")


def name_of(partition: dict[str, str]) -> str:
    """Name whom a limit counts: "alice", or "address 127.0.0.1, model other" where several things are counted."""
    if len(partition) == 1:
        return plain(next(iter(partition.values())))
    return plain(", ".join(f"{part} {value}" for part, value in partition.items()), 2 * _LONGEST)


def plain(text: object, longest: int = _LONGEST) -> str:
    """Leave out of a text what would move a terminal's cursor, and what is too long of it."""
    shown = "".join(char if char.isprintable() else "�" for char in str(text))
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    if seconds < 86_400:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    return f"{int(seconds // 86_400)} d {int(seconds % 86_400 // 3600)} h"
