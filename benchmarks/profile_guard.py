"""Where the guard's time goes: `python -m benchmarks.profile_guard proxied`.

Starts the guard as the benchmark does, loads it with wrk, and samples it meanwhile: with py-spy if there is one (Python
and native frames; `uv tool install py-spy`), and with perf if there is one (native frames and the kernel). Prints the
functions with the most time of their own, and those with the most time below them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import wrk
from benchmarks.cases import CASES, VARIED
from benchmarks.contestants.corral import Corral, Everything, Interpreted
from benchmarks.cores import choose, physical
from benchmarks.processes import Process, accepts, free_port
from benchmarks.sample import check
from benchmarks.upstream import compile_upstream, running_upstream


def main() -> None:
    """Load, sample, print."""
    cases = {case.name: case for case in (*CASES, *VARIED)}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_guard", description=__doc__)
    parser.add_argument("case", choices=cases, nargs="?", default="proxied")
    guards: dict[str, Corral] = {guard.name: guard for guard in (Corral(), Everything(), Interpreted())}
    parser.add_argument("--guard", choices=guards, default="corral", help="which of the benchmarks' guards")
    parser.add_argument("--seconds", type=int, default=5, help="how long is sampled")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--top", type=int, default=40, help="how many functions are printed")
    parser.add_argument("--py-spy", default=shutil.which("py-spy"), help="where py-spy is")
    parser.add_argument("--python-only", action="store_true", help="no native frames: less weight on the guard")
    parser.add_argument("--keep", type=Path, help="keep py-spy's folded stacks in this file")
    options = parser.parse_args()
    case, cores = cases[options.case], choose(physical())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="corral-profile-")))
        upstream = stack.enter_context(
            running_upstream(compile_upstream(folder), folder, cores.upstream, unix=case.unix_upstream)
        )
        port, script, corral = free_port(), folder / "requests.lua", guards[options.guard]
        script.write_text(wrk.script(case))
        setup = corral.set_up(case, port, upstream, folder)
        for name, text in setup.files.items():
            (folder / name).write_text(text)
        guard = stack.enter_context(Process("corral", setup.command, cores.server, folder / "output.log"))
        guard.wait_for(accepts(port))
        check(case, port)
        url = f"http://127.0.0.1:{port}"
        load = wrk.run(url, script, 2, options.connections, cores.client)
        cpu = guard.cpu_seconds()
        load = wrk.run(url, script, 3, options.connections, cores.client)
        each = (guard.cpu_seconds() - cpu) / load.requests * 1e6
        print(f"{case.name}: {load.per_second:,.0f}/s, {each:.1f} µs of processor time a request; not sampled yet")

        def sampled(command: list[str]) -> None:
            loading = threading.Thread(
                target=wrk.run, args=(url, script, options.seconds + 2, options.connections, cores.client)
            )
            loading.start()
            os.sched_setaffinity(0, {cores.client})
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            loading.join()
            if ended.returncode:
                print(f"{command[0]} failed:\n{ended.stderr[-1000:]}", file=sys.stderr)

        if options.py_spy:
            stacks = options.keep or folder / "stacks.txt"
            native = [] if options.python_only else ["--native"]
            sampled([options.py_spy, "record", *native, "--threads", "--function", "--rate", "400",
                     "--duration", str(options.seconds),
                     "--format", "raw", "--output", str(stacks), "--pid", str(guard.pid)])  # fmt: skip
            if stacks.exists():
                _print_stacks(stacks.read_text().splitlines(), each, options.top)
        if shutil.which("perf"):
            data = str(folder / "perf.data")
            sampled(["perf", "record", "-e", "cpu-clock", "-F", "2000", "-o", data, "-p", str(guard.pid),
                     "--", "sleep", str(options.seconds)])  # fmt: skip
            _print_perf(data, options.top)


def own_and_below(stacks: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """Count, for each frame of folded stacks, the samples at its top and those that it stands anywhere in."""
    own: Counter[str] = Counter()
    below: Counter[str] = Counter()
    for line in stacks:
        frames, _, count = line.rpartition(" ")
        names = frames.split(";")
        own[names[-1]] += int(count)
        for name in set(names):
            below[name] += int(count)
    return own, below


def by_thread(stacks: Iterable[str]) -> dict[str, list[str]]:
    """Part folded stacks by their first frame, which names the thread."""
    threads: dict[str, list[str]] = {}
    for line in stacks:
        thread, _, rest = line.partition(";")
        threads.setdefault(thread, []).append(rest)
    return threads


def _print_stacks(stacks: list[str], each: float, top: int) -> None:
    threads = by_thread(stacks)
    for thread, lines in threads.items():
        print(f"\npy-spy: {sum(own_and_below(lines)[0].values())} samples of {thread}")
    main_thread = next((lines for thread, lines in threads.items() if "MainThread" in thread), stacks)
    own, below = own_and_below(main_thread)
    below = Counter({name: count for name, count in below.items() if "corral/" in name})
    total = sum(own.values())
    for title, counts in (("own time", own), ("Corral's functions with what they call", below)):
        print(f"\npy-spy, main thread, {title}  (µs: the share of {each:.1f} a request)")
        for name, count in counts.most_common(top):
            print(f"{count / total:7.1%} {count / total * each:8.2f} µs  {name}")


def _print_perf(data: str, top: int) -> None:
    print("\nperf, by thread, by library, by function")
    for order in ("pid", "dso", "dso,symbol"):
        command = ["perf", "report", "-i", data, "--stdio", "--no-children", "--sort", order]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line.rstrip(" -") for line in ended.stdout.splitlines() if line.strip() and not line.startswith("#")]
        print("\n".join(lines[:top]), "\n")


if __name__ == "__main__":
    main()
