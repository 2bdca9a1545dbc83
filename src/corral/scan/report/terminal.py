"""The report for people at a terminal: the grade, the findings worst first, what it cost, what could not be told."""

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from corral.scan.checks import CHECKS
from corral.scan.checks.base import Check
from corral.scan.finding import Finding, Verdict
from corral.scan.report.fix import fix_command
from corral.scan.report.model import Report

_GRADE_COLOURS = {"A+": "green", "A": "green", "B": "yellow", "C": "yellow", "D": "red", "F": "red"}
_MARKS = {
    Verdict.VULNERABLE: "[bold red]✗ vulnerable[/]",
    Verdict.INCONCLUSIVE: "[yellow]? could not tell[/]",
    Verdict.SAFE: "[green]✓ safe[/]",
}


def show(report: Report, console: Console) -> None:
    """Print the report."""
    colour = _GRADE_COLOURS[report.grade] if report.grade is not None else "yellow"
    points = f"{report.score}/100   " if report.score is not None else ""
    head = Text.assemble(
        ("Grade ", "bold"), (report.grade or "?", f"bold {colour}"), f"   {points}{report.target}   "
        f"{report.server}   {report.vantage}",
    )  # fmt: skip
    console.print(Panel(head, border_style=colour, expand=False))
    if report.no_grade:
        console.print(f"[yellow]No grade:[/] {escape(report.no_grade)}")
    ranked = sorted(report.findings, key=_worst_first)
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for finding in ranked:
        check = _check(finding)
        table.add_row(_MARKS[finding.verdict], finding.severity.value, finding.check, escape(check.title))
    console.print(table)
    for finding in ranked:
        if finding.verdict is not Verdict.SAFE and finding.check not in report.not_tested:
            console.print(_details(finding))
        if finding.verdict is Verdict.VULNERABLE:
            check = _check(finding)
            # A command that is wrapped could not be pasted.
            console.print(f"  [green]fix:[/] {escape(fix_command(check, report.target))}", soft_wrap=True)
            if check.fix_means:
                console.print(f"       [dim]{escape(check.fix_means)}[/]")
            console.print(f"  [dim]or:[/]  {escape(check.fix_other)}", soft_wrap=True)
    if report.not_tested:
        why = f" ({escape(report.stopped)})" if not report.no_grade else ""
        console.print(f"[yellow]Not tested:[/] {', '.join(report.not_tested)}{why}")
    if report.throttled:
        console.print(f"\n[yellow]{escape(report.throttled)}[/]")
    spent = report.spent
    console.print(f"[dim]Spent {spent.requests} requests, {spent.tokens} tokens, {spent.seconds:.1f} seconds.[/]")


def _worst_first(finding: Finding) -> tuple[int, int]:
    order = (Verdict.VULNERABLE, Verdict.INCONCLUSIVE, Verdict.SAFE)
    return order.index(finding.verdict), -finding.severity.rank


def _check(finding: Finding) -> Check:
    return next(check for check in CHECKS if check.id == finding.check)


def _details(finding: Finding) -> Group:
    check = _check(finding)
    lines = [
        f"\n[bold]{finding.check}[/] {escape(check.title)} [dim]({finding.severity.value}; {', '.join(check.refs)})[/]"
    ]
    lines += [f"  {escape(text)}" for text in finding.evidence]
    if finding.verdict is Verdict.VULNERABLE:
        lines.append(f"  [italic]{escape(check.why)}[/]")
    return Group(*lines)
