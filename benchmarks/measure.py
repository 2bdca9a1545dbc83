"""The runs: every contestant is up, and they take turns, so that a drifting machine favours nobody."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks import wrk
from benchmarks.cases import Case
from benchmarks.contestants import Contestant
from benchmarks.core_time import core_seconds
from benchmarks.cores import Cores
from benchmarks.processes import Process, StartError, accepts, free_port
from benchmarks.sample import Sample, WrongAnswer, check
from benchmarks.upstream import Upstream, compile_upstream, running_upstream


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: `runs` of `seconds` each after `warm_up` seconds; `connections` at once."""

    runs: int = 5
    seconds: int = 3
    warm_up: int = 1
    connections: int = 64
    transport: str = "auto"


@dataclass(frozen=True, slots=True)
class Run:
    """One run: what wrk saw, and the share of a core that each side used, 0 to 1."""

    load: wrk.Load
    server_cpu: float
    upstream_cpu: float
    others_cpu: float
    """What anybody else took of the server's core, the hypervisor's steal included."""
    others_at_client: float
    """The same of wrk's core."""

    @property
    def per_cpu_second(self) -> float:
        """Answers in a second of the server's processor time: what a neighbour's load changes least."""
        return self.load.per_second / max(self.server_cpu, 0.001)


@dataclass(slots=True)
class Series:
    """All runs of one contestant in one case."""

    contestant: str
    sample: Sample
    runs: list[Run] = field(default_factory=list)
    alone: wrk.Load | None = None
    """One connection at a time, for its latency."""

    @property
    def rates(self) -> list[float]:
        """Answers a second, run by run."""
        return [run.load.per_second for run in self.runs]

    @property
    def median(self) -> float:
        """The median of the rates."""
        return median(self.rates)

    @property
    def per_cpu_second(self) -> float:
        """The median of the answers in a second of the server's processor time."""
        return median(run.per_cpu_second for run in self.runs)


@dataclass(frozen=True, slots=True)
class Result:
    """One case, measured. `upstream` says how the upstream was reached."""

    case: Case
    series: tuple[Series, ...]
    upstream: str

    def of(self, contestant: str) -> Series | None:
        """Find the runs of a contestant."""
        return next((series for series in self.series if series.contestant == contestant), None)


Progress = Callable[[str], None]


class Bench:
    """Measures cases one after another with one compiled upstream; everything it writes is in a temporary folder."""

    def __init__(self, plan: Plan, cores: Cores, progress: Progress) -> None:
        self._plan = plan
        self._cores = cores
        self._progress = progress
        self._stack = ExitStack()

    def __enter__(self) -> "Bench":
        self._folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="corral-bench-")))
        self._binary = compile_upstream(self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measure(self, case: Case, contestants: Sequence[Contestant]) -> Result:
        """Measure one case. Raises WrongAnswer if a contestant does not do what the case says."""
        unix = case.unix_upstream if self._plan.transport == "auto" else self._plan.transport == "unix"
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(dir=self._folder)))
            script = folder / "requests.lua"
            script.write_text(wrk.script(case))
            upstream = stack.enter_context(running_upstream(self._binary, folder, self._cores.upstream, unix=unix))
            turns = [self._enter(stack, contestant, case, upstream, folder, script) for contestant in contestants]
            for turn in turns:
                self._progress(f"{case.name}: warming up {turn.series.contestant}")
                turn.load(self._plan.warm_up, self._plan.connections)
            for number in range(self._plan.runs):
                for turn in turns:
                    self._progress(f"{case.name}: run {number + 1} of {self._plan.runs}, {turn.series.contestant}")
                    turn.series.runs.append(turn.run(self._plan))
            for turn in turns:
                self._progress(f"{case.name}: latency of {turn.series.contestant}, one connection")
                turn.series.alone = turn.load(max(1, self._plan.seconds // 2), 1)
            how = "Unix socket" if unix else "TCP"
            return Result(case, tuple(turn.series for turn in turns), how)

    def upstream_alone(self, case: Case) -> tuple[float, float, float]:
        """Load the upstream itself by TCP.

        Returns answers a second, the share of a core that it used, and its median latency with one connection, in
        milliseconds.
        """
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(dir=self._folder)))
            script = folder / "requests.lua"
            script.write_text(wrk.script(case))
            upstream = stack.enter_context(running_upstream(self._binary, folder, self._cores.upstream, unix=False))
            url, core, seconds = f"http://127.0.0.1:{upstream.port}", self._cores.client, self._plan.seconds
            cpu = upstream.process.cpu_seconds()
            load = wrk.run(url, script, seconds, self._plan.connections, core)
            share = (upstream.process.cpu_seconds() - cpu) / load.seconds
            return load.per_second, share, wrk.run(url, script, max(1, seconds // 2), 1, core).p50_ms

    def _enter(
        self, stack: ExitStack, contestant: Contestant, case: Case, upstream: Upstream, folder: Path, script: Path
    ) -> "_Turn":
        home = folder / contestant.name
        home.mkdir()
        port = free_port()
        setup = contestant.set_up(case, port, upstream, home)
        for name, text in setup.files.items():
            (home / name).write_text(text)
        process = stack.enter_context(
            Process(contestant.name, setup.command, self._cores.server, home / "output.log", cwd=home)
        )
        process.wait_for(accepts(port))
        try:
            sample = check(case, port)
        except WrongAnswer as error:
            raise WrongAnswer(f"{contestant.name}, {case.name}: {error}") from error
        return _Turn(case, process, upstream.process, port, script, self._cores, Series(contestant.name, sample))


@dataclass(frozen=True, slots=True)
class _Turn:
    case: Case
    process: Process
    upstream: Process
    port: int
    script: Path
    cores: Cores
    series: Series

    def load(self, seconds: int, connections: int) -> wrk.Load:
        """Load the contestant, and see that every answer is what the case says."""
        try:
            load = wrk.run(f"http://127.0.0.1:{self.port}", self.script, seconds, connections, self.cores.client)
        except wrk.WrkError as error:
            raise StartError(f"{self.series.contestant}, {self.case.name}: {error}{self.process.obituary()}") from error
        good = load.requests - load.not_ok
        wanted = load.not_ok if self.case.refuses else good
        if load.broken or wanted < 0.999 * load.requests - 2:
            raise WrongAnswer(
                f"{self.series.contestant}, {self.case.name}: of {load.requests} answers {load.not_ok} were refusals "
                f"or errors, and {load.broken} connections broke"
            )
        return load

    def run(self, plan: Plan) -> Run:
        """Load the contestant and account for who worked how much meanwhile."""
        cores = self.cores
        server, upstream = self.process.cpu_seconds(), self.upstream.cpu_seconds()
        at_server, at_client = core_seconds(cores.server), core_seconds(cores.client)
        load = self.load(plan.seconds, plan.connections)
        server = self.process.cpu_seconds() - server
        upstream = self.upstream.cpu_seconds() - upstream
        at_server, at_client = core_seconds(cores.server) - at_server, core_seconds(cores.client) - at_client
        ours = load.client_cpu * load.seconds + (upstream if cores.upstream == cores.client else 0.0)
        if cores.server == cores.client:
            ours += server
        return Run(
            load=load,
            server_cpu=server / load.seconds,
            upstream_cpu=upstream / load.seconds,
            others_cpu=max(0.0, at_server - (ours if cores.server == cores.client else server)) / load.seconds,
            others_at_client=max(0.0, at_client - ours) / load.seconds,
        )
