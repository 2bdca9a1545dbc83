"""Run a soak: `python -m benchmarks.soak --minutes 30`. Exits with 1 where a bar does not hold."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from benchmarks.contestants.corral import Corral
from benchmarks.cores import choose, physical
from benchmarks.processes import Process, accepts, free_port
from benchmarks.soak.samples import Sample, look
from benchmarks.soak.setup import HONEST, command, secret, write_policy
from benchmarks.soak.traffic import Tally, everybody
from benchmarks.soak.verdict import judge, table
from benchmarks.soak.wire import chat, read_answer
from corral.demo.llama_server import LlamaServer
from corral.demo.tiny_model import write_tiny_llama

_COMPILED = Path(__file__).parents[2] / "build" / "compiled"


class Upstream:
    """The real llama-server, which is killed and started anew now and then."""

    def __init__(self, model: Path, port: int) -> None:
        self._model, self._port = model, port
        self.restarts = 0
        self._server = self._start()

    def _start(self) -> LlamaServer:
        return LlamaServer.start(self._model, port=self._port, extra=["-np", "4", "-c", "8192", "-t", "1"])

    def restart(self) -> None:
        """Kill it, and start it anew."""
        os.kill(self._server.pid, signal.SIGKILL)
        self._server.stop()
        self._server = self._start()
        self.restarts += 1

    def stop(self) -> None:
        """End it."""
        self._server.stop()


async def _restarts(upstream: Upstream, every: float) -> None:
    while True:
        await asyncio.sleep(every)
        await asyncio.shield(asyncio.to_thread(upstream.restart))


async def _watch(pid: int, admin: int, start: float, every: float, samples: list[Sample]) -> None:
    while True:
        await asyncio.sleep(every)
        samples.append(await asyncio.to_thread(look, pid, admin, monotonic() - start))


async def _warm_up(port: int) -> None:
    """Ask once, so that what is opened with the first request is open before anything is counted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(chat(secret(HONEST[0]), "10.0.0.1", tokens=2))
    answer = await read_answer(reader)
    writer.close()
    await writer.wait_closed()
    if answer.status != 200:
        raise SystemExit(f"The guard answers {answer.status}: {answer.body!r}")


async def _quiet(pid: int, admin: int, start: float, like: int | None) -> Sample:
    """Wait until nothing is under way and idle connections to the server are closed; at most 48 seconds."""
    for _ in range(8):
        await asyncio.sleep(6)  # a look has the guard open a connection to its server, which it keeps for less
        sample = await asyncio.to_thread(look, pid, admin, monotonic() - start)
        if not sample.gauges["connections"] and not sample.gauges["upstream"] and like in (None, sample.files):
            break
    return sample


async def soak(pid: int, port: int, admin: int, upstream: Upstream, seconds: float) -> tuple[list[Sample], Tally]:
    """Let everybody call for so long. The first and the last sample are of a guard at rest."""
    tally: Tally = Counter()
    start = monotonic()
    await _warm_up(port)
    before = await _quiet(pid, admin, start, None)
    samples: list[Sample] = []
    start = monotonic()
    tasks = (
        everybody(port, tally),
        _restarts(upstream, max(30.0, seconds / 30)),
        _watch(pid, admin, start, 2.0 if seconds < 600 else 5.0, samples),
    )
    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(task)
    except TimeoutError:
        pass
    after = await _quiet(pid, admin, start, before.files)
    return [before, *samples, after], tally


def main() -> int:
    """Run, print, judge. Returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--interpreted", action="store_true", help="the guard without its compiled modules")
    parser.add_argument("--json", type=Path, help="a file for all samples, counts and judgements")
    options = parser.parse_args()
    if not options.interpreted and Corral().missing:
        raise SystemExit(f"There is no {Corral().missing}.")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="corral-soak-")))
        write_tiny_llama(folder / "tiny.gguf")
        port, admin, behind = free_port(), free_port(), free_port()
        upstream = Upstream(folder / "tiny.gguf", behind)
        stack.callback(upstream.stop)
        policy = write_policy(folder, admin)
        line = command(policy, f"http://127.0.0.1:{behind}", port, None if options.interpreted else _COMPILED)
        guard = stack.enter_context(Process("corral", line, choose(physical()).server, folder / "log"))
        guard.wait_for(accepts(port))
        guard.wait_for(accepts(admin))
        print(f"A soak of {options.minutes:g} minutes: {len(HONEST)} honest clients among others", flush=True)
        samples, tally = asyncio.run(soak(guard.pid, port, admin, upstream, options.minutes * 60))
        before, *during, after = samples
        alive = Path(f"/proc/{guard.pid}/fd").exists()
        said = (folder / "log").read_text(errors="replace")
        judgements = judge(before, during, after, tally, alive=alive and "Traceback" not in said)
    print(table([*during, after]))
    print("\n".join(f"{count:9,} {what}" for what, count in sorted(tally.items())))
    print(f"{upstream.restarts:9,} restarts of the server")
    for judgement in judgements:
        print(f"{'pass' if judgement.holds else 'FAIL'}  {judgement.words}")
    if "Traceback" in said:
        print(said[-3000:])
    flat = all(judgement.holds for judgement in judgements)
    print("Flat: it came out as it went in." if flat else "Not flat.")
    if options.json:
        told = {"samples": [asdict(sample) for sample in samples], "counts": dict(tally),
                "judgements": [asdict(judgement) for judgement in judgements]}  # fmt: skip
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
