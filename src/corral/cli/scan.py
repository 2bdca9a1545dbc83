"""`corral scan`: audit an endpoint from outside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli.console import console, print_json
from corral.errors import CorralError, UsageError

if TYPE_CHECKING:
    from corral.scan import Report

_SEVERITIES = ("info", "low", "medium", "high", "critical")
_CHOICE = f"{', '.join(_SEVERITIES[:-1])} or {_SEVERITIES[-1]}"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "scan", epilog="Examples: corral scan http://localhost:8080 · corral scan $URL --key $KEY --json --fail-on high"
    )(scan)


def scan(
    url: Annotated[str, typer.Argument(help="The endpoint, as http://localhost:8080.")],
    key: Annotated[str | None, typer.Option(help="Scan as the holder of this key.", envvar="CORRAL_API_KEY")] = None,
    key_file: Annotated[Path | None, typer.Option(help="Read the key from a file.")] = None,
    model: Annotated[str | None, typer.Option(help="The model to name; the server's first otherwise.")] = None,
    header: Annotated[list[str] | None, typer.Option(help='One more header, as "Name: value".')] = None,
    budget_requests: Annotated[int, typer.Option(min=1, max=1500, help="Most requests to send.")] = 200,
    timeout: Annotated[float, typer.Option(min=0.5, help="Longest wait for one answer, in seconds.")] = 15.0,
    fail_on: Annotated[str | None, typer.Option(help=f"Exit with 1 at a vulnerability this severe: {_CHOICE}.")] = None,
    owned: Annotated[
        bool, typer.Option("--i-own-this", help="The target is mine, though its address is public.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Scan an endpoint from outside: what could an abuser do to it? Graded A+ to F, with the fix for each finding.

    It costs a server without limits some 110 requests and 1,600 tokens: a burst of 50 for one token each, 39 streams of
    32 tokens, and a long one that is cut off. Where a limit on tokens is declared, four streams are read up to it. The
    scan stops when the target suffers, and where it is told to wait it does, a minute in all at most.
    """
    from corral.scan.report.json import as_json as to_json  # noqa: PLC0415  # keeps `corral --version` fast
    from corral.scan.report.terminal import show  # noqa: PLC0415  # as above

    try:
        if fail_on is not None and fail_on not in _SEVERITIES:
            raise UsageError(f'--fail-on "{fail_on}" is no severity: write {_CHOICE}.')
        secret = _read_key(key_file) if key_file is not None else key
        report = _run(
            url, quiet=quiet or as_json, key=secret, model=model, owned=owned, budget_requests=budget_requests,
            timeout=timeout, headers=_headers(header or []),
        )  # fmt: skip
    except CorralError as error:
        if not as_json:
            raise
        print_json({"target": url, "error": str(error)})
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print_json(to_json(report))
    else:
        show(report, console())
    worst = report.worst()
    if report.stopped or report.grade is None:
        raise typer.Exit(3)
    if fail_on is not None and worst is not None and worst.rank >= _SEVERITIES.index(fail_on):
        raise typer.Exit(1)


def _run(url: str, *, quiet: bool, **options: object) -> "Report":
    """Scan with progress on standard error, where somebody watches."""
    import asyncio  # noqa: PLC0415  # keeps `corral --version` fast

    from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn  # noqa: PLC0415  # as above

    from corral.scan import scan_async  # noqa: PLC0415  # as above

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    watched = console(stderr=True)
    with Progress(*columns, console=watched, transient=True, disable=quiet or not watched.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def told(check: str, done: bool) -> None:  # noqa: FBT001  # the callback's shape
            if done:
                progress.update(tasks[check], total=1, completed=1)
            else:
                tasks[check] = progress.add_task(check, total=None)

        return asyncio.run(scan_async(url, progress=told, **options))  # type: ignore[arg-type]  # passed on as given


def _read_key(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error


def _headers(lines: list[str]) -> dict[str, str]:
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or any(character in line for character in "\r\n"):
            raise UsageError(f'--header "{line}" is no header: write it as "Name: value".')
        headers[name.strip()] = value.strip()
    return headers
