"""What the guard counts of the requests it ended.

Counting is plain arithmetic on the gateway's thread; what Prometheus reads is built only when somebody scrapes (see
`metric_families`). Labels are bounded: routes come from the dialect, reasons from the guard, limits and plans from the
policy. Clients, addresses, keys, paths and models are no labels: who sends requests can invent them.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from corral.guard.metric_families import Families
from corral.guard.record import Finished
from corral.guard.shadow import refusals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of `Metrics.exposition`."""

Kind = tuple[str, int, str, str, str, str]
"""What requests are counted by: route, status, ending, refusal's reason, refusing limit, plan."""

OTHER: Final[Kind] = ("other", 0, "other", "", "", "")

_MAX_KINDS: Final = 16_384  # later ones are counted together under OTHER

_DURATION_BOUNDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0, 900.0)
_WAIT_BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0)
_FIRST_TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0, 120.0,
                       300.0)  # fmt: skip
_TOKEN_BOUNDS = tuple(1 << power for power in range(4, 18))  # whole: compared in half the time


class Histogram:
    """Counts by bucket; `bounds` are the buckets' upper ends, each part of its own bucket, in the quantity's unit."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value. Compiled, this takes 20 ns, and a call of bisect 90; interpreted, bisect would be faster."""
        bounds = self.bounds
        low, high = 0, len(bounds)
        while low < high:
            middle = (low + high) >> 1
            if bounds[middle] < value:
                low = middle + 1
            else:
                high = middle
        self.counts[low] += 1
        self.total += value


class Tally:
    """The sums over all requests of one kind. What the server did not report adds nothing."""

    __slots__ = ("bytes_in", "bytes_out", "completion", "compute_ms", "prompt", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.prompt = 0
        self.completion = 0
        self.compute_ms = 0.0


class Read(NamedTuple):
    """Values that somebody else keeps and that are read when they are scraped, by the value of `label`.

    Without a label there is one, under "". A value that is not known is NaN.
    """

    name: str
    help: str
    read: Callable[[], Mapping[str, float]]
    counter: bool
    label: str


class Metrics:
    """Counts ended requests; not safe to call from several threads."""

    def __init__(self) -> None:
        self.tallies: dict[Kind, Tally] = {}
        self.shadowed: dict[tuple[str, str, str], int] = {}
        self.duration = Histogram(_DURATION_BOUNDS)
        self.wait = Histogram(_WAIT_BOUNDS)
        self.first_token = Histogram(_FIRST_TOKEN_BOUNDS)
        self.prompt = Histogram(_TOKEN_BOUNDS)
        self.completion = Histogram(_TOKEN_BOUNDS)
        self.reads: dict[str, Read] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Families(self))
        ProcessCollector(registry=self._registry)

    def finished(self, record: Finished) -> None:
        """Count one ended request. Times and tokens are only measured for requests that the guard did not refuse."""
        (_, _, _, _, _, route, status, refused, limit, stream, waited, first_byte,
         duration, bytes_in, bytes_out, prompt, completion, compute, ending, plan, _, shadow) = record  # fmt: skip
        kind = (route, status, ending, refused, limit, plan)
        tally = self.tallies.get(kind)
        if tally is None:
            tally = self._first_of(kind)
        tally.requests += 1
        if shadow:
            self._would_refuse(shadow, plan)
        tally.bytes_in += bytes_in
        if refused:
            return
        tally.bytes_out += bytes_out
        self.duration.observe(duration)
        if waited:
            self.wait.observe(waited)
        else:
            self.wait.counts[0] += 1  # most wait for nothing
        if stream and bytes_out and status == 200:
            self.first_token.observe(first_byte)
        if prompt >= 0:
            tally.prompt += prompt
            self.prompt.observe(prompt)
        if completion >= 0:
            tally.completion += completion
            self.completion.observe(completion)
        if compute > 0.0:
            tally.compute_ms += compute

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:  # noqa: A002 - its word here
        """Show what `read` answers at each scrape as the gauge `name`; the latest `read` stands. NaN is not known."""
        self.reads[name] = Read(name, help, lambda: {"": read()}, counter=False, label="")

    def gauges(self, name: str, help: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:  # noqa: A002
        """Show what `read` answers as the gauge `name`, one for each value of `label`, which must be bounded."""
        self.reads[name] = Read(name, help, read, counter=False, label=label)

    def counter(self, name: str, help: str, read: Callable[[], float]) -> None:  # noqa: A002 - its word here
        """Show what `read` answers at each scrape as the counter `name` + `_total`."""
        self.reads[name] = Read(name, help, lambda: {"": read()}, counter=True, label="")

    def counters(self, name: str, help: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:  # noqa: A002
        """Show what `read` answers as the counter `name` + `_total`, one for each value of `label`; as `gauges`."""
        self.reads[name] = Read(name, help, read, counter=True, label=label)

    def exposition(self) -> bytes:
        """Spell everything in Prometheus' text format (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)

    def _would_refuse(self, shadow: str, plan: str) -> None:
        """Count what would have been refused, once for each limit in shadow; bounded by the policy."""
        for reason, limit in refusals(shadow):
            kind = (reason, limit, plan)
            self.shadowed[kind] = self.shadowed.get(kind, 0) + 1

    def _first_of(self, kind: Kind) -> Tally:
        """Begin to count a kind, or count it as OTHER once there are too many."""
        if len(self.tallies) >= _MAX_KINDS:
            kind = OTHER
        return self.tallies.setdefault(kind, Tally())
