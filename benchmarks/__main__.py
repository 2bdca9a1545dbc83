"""The command: `python -m benchmarks`."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TypeVar

from benchmarks import report
from benchmarks.bars import judge, judge_latency
from benchmarks.cases import CASES, VARIED
from benchmarks.contestants import CONTESTANTS
from benchmarks.cores import choose, physical
from benchmarks.machine import describe
from benchmarks.measure import Bench, Plan, Result
from benchmarks.processes import StartError
from benchmarks.sample import WrongAnswer
from benchmarks.wrk import WrkError

T = TypeVar("T")

_LATEST = Path(__file__).with_name("latest.json")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Corral beside its peers.")
    parser.add_argument("--quick", action="store_true", help="three runs of one second: for development")
    parser.add_argument("--runs", type=int, help="runs of each contestant in each case (default 5)")
    parser.add_argument("--seconds", type=int, help="length of a run (default 3)")
    parser.add_argument("--only", help="contestants, comma-separated; the first is what ratios refer to")
    parser.add_argument("--cases", help="cases, comma-separated (default: all)")
    parser.add_argument("--upstream", choices=("auto", "tcp", "unix"), default="auto", help="how it is reached")
    parser.add_argument("--output", type=Path, default=_LATEST, help=f"where the JSON goes (default {_LATEST.name})")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args(given)
    options.contestants = _chosen(parser, options.only, {it.name: it for it in CONTESTANTS})
    options.cases = _chosen(parser, options.cases, {it.name: it for it in (*CASES, *VARIED)})
    return options


def _chosen(parser: argparse.ArgumentParser, names: str | None, known: dict[str, T]) -> list[T]:
    if names is None:
        return list(known.values())
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            parser.error(f"there is no {name!r}; there are {', '.join(known)}")
    return [known[name] for name in wanted]


def plan(options: argparse.Namespace) -> Plan:
    """Turn the options into a plan."""
    runs, seconds = (3, 1) if options.quick else (5, 3)
    return Plan(options.runs or runs, options.seconds or seconds, transport=options.upstream)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def main(options: argparse.Namespace) -> int:
    """Measure, print, write. Returns the process's exit status."""
    machine, how, cores = describe(), plan(options), choose(physical())
    print(f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, nginx {machine['nginx']}, "
          f"wrk {machine['wrk']}, Python {machine['python']} of {machine['python_from']}")  # fmt: skip
    print(cores.words)
    print(f"medians of {how.runs} runs of {how.seconds} s each, taken in turns; wrk with {how.connections} connections "
          "(p50 and p99 with one); the same request bytes and the same upstream for all")  # fmt: skip
    for contestant in options.contestants:
        absent = f"left out, for {contestant.missing} is not installed"
        print(f"  {contestant.name}: {absent if contestant.missing else contestant.conditions}")
    present = [contestant for contestant in options.contestants if not contestant.missing]
    print()
    results: list[Result] = []
    with Bench(how, cores, _progress) as bench:
        rate, share, direct = bench.upstream_alone(CASES[1])
        _progress("")
        print(f"the upstream alone, by TCP: {rate:,.0f} completions/s, using {share:.0%} of a core "
              f"({rate / share:,.0f} a second of its own processor time)\n")  # fmt: skip
        for case in options.cases:
            results.append(bench.measure(case, [it for it in present if it.plays(case)]))
            _progress("")
            print(report.table(results[-1]))
            print(_seen(results[-1]))
    outcomes, latency = judge(results), judge_latency(results, direct)
    print(report.bars([*outcomes, *latency]))
    taken = datetime.now(UTC).isoformat(timespec="seconds")
    content = report.document(results, outcomes, machine, how, taken, latency)
    options.output.write_text(json.dumps(content, indent=2) + "\n")
    print(f"\nwritten to {options.output}")
    return 1 if options.check and not all(outcome.passed for outcome in (*outcomes, *latency)) else 0


def _seen(result: Result) -> str:
    samples = [f"  {series.contestant} answers {series.sample.words}" for series in result.series]
    return "\n".join([*samples, ""]) if result.case.refuses and not result.case.varied else ""


def _interrupted(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        sys.exit(main(arguments()))
    except KeyboardInterrupt:
        sys.exit(130)
    except (StartError, WrkError, WrongAnswer, OSError) as fault:
        print(f"\nbenchmarks: {fault}", file=sys.stderr)
        sys.exit(1)
