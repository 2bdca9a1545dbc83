"""`corral demo`: see the whole loop on this machine."""

import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli.console import console, print_json

if TYPE_CHECKING:
    from corral.demo.loop import DemoReport
    from corral.demo.traffic import Latency


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", epilog="Example: corral demo --json > demo.json")(demo)


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Scan a real llama-server bare (F), guard it, and scan it again (A): about a minute, all on this machine."""
    import asyncio  # noqa: PLC0415  # keeps `corral --version` fast

    from corral.demo.loop import run_demo  # noqa: PLC0415  # as above

    received = [int(signal.SIGINT)]

    def end(number: int, _frame: object) -> None:
        """End as at Ctrl-C, and take the servers along."""
        received[0] = number
        signal.raise_signal(signal.SIGINT)

    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, end)
    said = console(stderr=True, quiet=quiet)
    try:
        report = asyncio.run(run_demo(lambda step: said.print(f"[dim]› {step}[/]")))
    except KeyboardInterrupt:
        console(stderr=True).print("[bold red]corral:[/] The demo was interrupted; its servers have ended.")
        raise typer.Exit(128 + received[0]) from None
    if as_json:
        print_json(_as_json(report))
    else:
        _show(report)


def _as_json(report: "DemoReport") -> dict[str, Any]:
    from corral.scan.report.json import as_json  # noqa: PLC0415  # as above

    return {
        "bare": as_json(report.bare),
        "guarded": as_json(report.guarded),
        "guarded_with_key": as_json(report.guarded_with_key),
        "honest_client": {"bare": _latency(report.honest_bare), "guarded": _latency(report.honest_guarded)},
    }


def _latency(latency: "Latency") -> dict[str, Any]:
    return {
        "p50_ms": latency.p50_ms,
        "p95_ms": latency.p95_ms,
        "answered": latency.answered,
        "sent": latency.sent,
    }


def _show(report: "DemoReport") -> None:
    from rich.table import Table  # noqa: PLC0415  # as above

    from corral.scan.report.terminal import show  # noqa: PLC0415  # as above

    out = console()
    for title, scanned in (
        ("The bare server", report.bare),
        ("Guarded, seen by a stranger", report.guarded),
        ("Guarded, seen by the holder of a key", report.guarded_with_key),
    ):
        out.rule(title)
        show(scanned, out)
    out.rule("An honest client beside a flood")
    table = Table(box=None, padding=(0, 3, 0, 0))
    for column in ("", "answered", "p50", "p95"):
        table.add_column(column, justify="right" if column else "left")
    for name, latency in (("bare", report.honest_bare), ("guarded", report.honest_guarded)):
        table.add_row(
            name, f"{latency.answered} of {latency.sent}", f"{latency.p50_ms:,.0f} ms", f"{latency.p95_ms:,.0f} ms"
        )
    out.print(table)
    grades = [scanned.grade or "?" for scanned in (report.bare, report.guarded, report.guarded_with_key)]
    out.print(f"\nBare [bold red]{grades[0]}[/] → guarded [bold green]{grades[1]}[/] (with a key: {grades[2]}).")
