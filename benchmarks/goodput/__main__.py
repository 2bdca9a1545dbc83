"""The command: `python -m benchmarks.goodput`."""

import argparse
import asyncio
import ctypes
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

from benchmarks.goodput.load import Answer, Person, flood, follow
from benchmarks.goodput.servers import SERVERS, Limits, Server
from benchmarks.goodput.trace import SHRINK, Arrival, arrivals
from benchmarks.machine import describe
from benchmarks.processes import Process, accepts, free_port
from corral.demo.llama_server import LlamaServer
from corral.demo.tiny_model import write_tiny_llama

_HONEST = tuple(Person(f"127.0.0.{11 + n}", f"sk-honest-{n}") for n in range(8))
_FLOODING = tuple(Person(f"127.0.0.{101 + n}", f"sk-flood-{n}") for n in range(4))
_LOAD = 0.6
_FACTOR = 100
_AT_ONCE = 64
_HEADROOM = 3
_SLOTS = 4
_CORES = os.sched_getaffinity(0)
_LAST_CORE = max(_CORES)
_LATEST = Path(__file__).with_name("latest.json")


_CONDITIONS = """\
llama-server, {slots} slots, on one core: {capacity:.1f} requests/s of the trace (its tokens divided by {shrink})
honest: {honest} clients, {rate:.1f} requests/s, {load:.0%} load, the trace's own bursts
flood: {flooding} clients with valid keys, {flood:.0f} requests/s, of 64 tokens each
every limit: {each} requests a minute for each client; times are those to the first token

             alone: answered       p50       p95   beside the flood: answered       p50       p95    p95 ×"""


def _cells(outcome: "Outcome", width: int) -> str:
    return f"{outcome.answered / outcome.sent:>{width}.1%}{_time(outcome.p50_ms)}{_time(outcome.p95_ms)}"


def _time(milliseconds: float) -> str:
    return f"{milliseconds:>7.0f} ms" if milliseconds < math.inf else f"{'never':>10}"


def _row(name: str, alone: "Outcome", beside: "Outcome") -> str:
    ratio = beside.p95_ms / alone.p95_ms
    return f"{name:8}{_cells(alone, 20)}{_cells(beside, 29)}{f'{ratio:.2f}' if ratio < math.inf else '-':>9}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What honest clients got: requests sent and answered whole, and the time to the first token in milliseconds."""

    sent: int
    answered: int
    p50_ms: float
    p95_ms: float

    @classmethod
    def of(cls, answers: list[Answer]) -> "Outcome":
        """Summarise; a request that was not answered counts as infinitely late."""
        times = sorted(answer.first_token if answer.whole else math.inf for answer in answers)
        ranks = quantiles(times, n=100, method="inclusive") if times[-1] < math.inf else None
        p50, p95 = (ranks[49], ranks[94]) if ranks else (times[len(times) // 2], times[int(0.95 * len(times))])
        return cls(len(answers), sum(answer.whole for answer in answers), 1000 * p50, 1000 * p95)


@contextmanager
def _flooding(port: int, rate: float) -> Iterator[None]:
    """Flood from a process of its own, so that honest clients' times are taken undisturbed."""
    child = subprocess.Popen([sys.executable, "-m", "benchmarks.goodput", "--flood", f"{port}:{rate}"])
    try:
        yield
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


@contextmanager
def _llama_server(model: Path) -> Iterator[str]:
    """Start the model's server on the first core, one for each measurement: what a flood left is nobody else's load."""
    os.sched_setaffinity(0, _CORES)
    extra = ("-np", str(_SLOTS), "-c", str(_SLOTS * 1024), "-t", "1", "-tb", "1", "--no-webui")
    with LlamaServer.start(model, extra=extra) as llama:
        os.sched_setaffinity(llama.pid, {min(_CORES)})
        os.sched_setaffinity(0, {_LAST_CORE})
        yield llama.url


def _capacity(port: int) -> float:
    """Measure how many requests of the trace the bare server answers a second when it is never idle."""
    schedule = [Arrival(0.0, it.prompt_tokens, it.answer_tokens) for it in arrivals(8.0, 8.0)]

    async def measure() -> float:
        queue = list(enumerate(schedule))
        begin = asyncio.get_running_loop().time()

        async def worker() -> None:
            while queue:
                number, arrival = queue.pop()
                await follow(port, [_HONEST[number % len(_HONEST)]], [arrival])

        await asyncio.gather(*(worker() for _ in range(_SLOTS)))
        return len(schedule) / (asyncio.get_running_loop().time() - begin)

    return asyncio.run(measure())


def _measure(server: Server, upstream: str, limits: Limits, rate: float, seconds: float) -> tuple[Outcome, Outcome]:
    with TemporaryDirectory(prefix="corral-goodput-") as name:
        folder, port = Path(name), free_port()
        command = server.set_up(upstream, port, limits, folder)
        schedule = arrivals(rate, seconds)
        if command is None:
            port = int(upstream.rpartition(":")[2])
            return _both(port, schedule, rate)
        with Process(server.name, command, _LAST_CORE, folder / "output.log") as process:
            process.wait_for(accepts(port))
            return _both(port, schedule, rate)


def _both(port: int, schedule: list[Arrival], rate: float) -> tuple[Outcome, Outcome]:
    alone = Outcome.of(asyncio.run(follow(port, _HONEST, schedule)))
    with _flooding(port, _FACTOR * rate):
        asyncio.run(asyncio.sleep(2.0))  # let the flood arrive before the honest clients do
        beside = Outcome.of(asyncio.run(follow(port, _HONEST, schedule)))
    return alone, beside


def main() -> int:
    """Measure, print, write. Returns the process's exit status: 1 with `--check` where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.goodput", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long honest clients ask, each time")
    parser.add_argument("--only", help="servers, comma-separated; then nothing is written")
    parser.add_argument("--width", type=int, default=384, help="the model's width")
    parser.add_argument("--layers", type=int, default=6, help="the model's layers")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--flood", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.flood:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no flood outlives who ordered it
        port, rate = options.flood.split(":")
        asyncio.run(flood(int(port), _FLOODING, float(rate), _AT_ONCE))
    servers = [it for it in SERVERS if options.only is None or it.name in options.only.split(",")]
    with TemporaryDirectory(prefix="corral-goodput-") as name:
        model = Path(name) / "model.gguf"
        write_tiny_llama(model, width=options.width, layers=options.layers)
        results: dict[str, tuple[Outcome, Outcome]] = {}
        with _llama_server(model) as url:
            capacity = _capacity(int(url.rpartition(":")[2]))
        rate = _LOAD * capacity
        each = max(2, round(_HEADROOM * 60 * rate / len(_HONEST)))
        limits = Limits(tuple(p.key for p in (*_HONEST, *_FLOODING)), each, _SLOTS)
        print(_CONDITIONS.format(slots=_SLOTS, capacity=capacity, shrink=SHRINK, honest=len(_HONEST), rate=rate,
                                 load=_LOAD, flooding=len(_FLOODING), flood=_FACTOR * rate, each=each),
              flush=True)  # fmt: skip
        for server in servers:
            with _llama_server(model) as url:
                alone, beside = results[server.name] = _measure(server, url, limits, rate, options.seconds)
            print(_row(server.name, alone, beside), flush=True)
    if options.only is None:
        content: dict[str, object] = {
            name: {"alone": asdict(alone), "flooded": asdict(beside)} for name, (alone, beside) in results.items()
        }
        content["conditions"] = {
            "capacity": capacity,
            "rate": rate,
            "each_per_minute": each,
            "seconds": options.seconds,
        }
        content["machine"], content["taken"] = describe(), datetime.now(UTC).isoformat(timespec="seconds")
        _LATEST.write_text(json.dumps(_finite(content), indent=2) + "\n")
    ours = results.get("corral")
    if ours is None:
        return 0
    share, ratio = ours[1].answered / ours[1].sent, ours[1].p95_ms / ours[0].p95_ms
    passed = share >= 0.99 and ratio <= 1.5
    print(f"\n{'pass' if passed else 'FAIL'}  corral: {share:.1%} answered (bar 99%), p95 {ratio:.2f} × (bar 1.5)")
    return 1 if options.check and not passed else 0


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if value == math.inf else value


if __name__ == "__main__":
    sys.exit(main())
