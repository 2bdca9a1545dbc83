"""What the guard counts of the requests it ended, and how Prometheus reads it.

Counting is plain arithmetic on the gateway's thread; the exposition is built only when somebody scrapes.
Labels are bounded: routes come from the dialect, reasons and limits from the policy, clients are the names of
configured keys; addresses and paths are no labels.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from corral import __version__
from corral.guard.record import Finished

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of `Metrics.exposition`."""

_Key = TypeVar("_Key")

_MAX_SERIES = 4096  # label sets of one family; later ones are counted together under "other"

_DURATION_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_WAIT_BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_FIRST_BYTE_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class _Histogram:
    """Counts by bucket, with the bounds in seconds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def buckets(self) -> list[tuple[str, float]]:
        """List the cumulative buckets as the exposition wants them."""
        names = [*map(str, self.bounds), "+Inf"]
        seen = 0
        buckets: list[tuple[str, float]] = []
        for name, count in zip(names, self.counts, strict=True):
            seen += count
            buckets.append((name, seen))
        return buckets


class _Read(NamedTuple):
    """A value that somebody else keeps and that is read when it is scraped."""

    name: str
    help: str
    read: Callable[[], float]
    counter: bool


class Metrics:
    """Counts ended requests; not safe to call from several threads."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, int, str], int] = {}
        self._refusals: dict[tuple[str, str], int] = {}
        self._clients: dict[str, list[int]] = {}
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._compute_ms = 0.0
        self._bytes_in = 0
        self._bytes_out = 0
        self._duration = _Histogram(_DURATION_BOUNDS)
        self._wait = _Histogram(_WAIT_BOUNDS)
        self._first_byte = _Histogram(_FIRST_BYTE_BOUNDS)
        self._reads: dict[str, _Read] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Families(self.families))
        ProcessCollector(registry=self._registry)

    def finished(self, record: Finished) -> None:
        """Count one ended request. Times are only measured for requests that reached the server."""
        (_, _, client, _, _, route, status, refused, limit, _, waited, first_byte,
         duration, bytes_in, bytes_out, prompt, completion, compute, ending) = record  # fmt: skip
        self._bytes_in += bytes_in
        self._bytes_out += bytes_out
        key = (route, status, ending)
        requests = self._requests
        if key in requests:
            requests[key] += 1
        else:
            _count_new(requests, key, ("other", status, ending))
        if refused:
            self._refused(refused, limit)
            return
        histogram = self._duration
        histogram.counts[bisect_left(histogram.bounds, duration)] += 1
        histogram.total += duration
        histogram = self._wait
        histogram.counts[bisect_left(histogram.bounds, waited)] += 1
        histogram.total += waited
        if first_byte > 0.0:
            histogram = self._first_byte
            histogram.counts[bisect_left(histogram.bounds, first_byte)] += 1
            histogram.total += first_byte
        tokens = 0
        if prompt > 0:
            self._prompt_tokens += prompt
            tokens = prompt
        if completion > 0:
            self._completion_tokens += completion
            tokens += completion
        if compute > 0.0:
            self._compute_ms += compute
        if client:
            self._client(client, tokens)

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:  # noqa: A002 - its word here
        """Show what `read` answers at each scrape as the gauge `name`; the latest `read` stands."""
        self._reads[name] = _Read(name, help, read, counter=False)

    def counter(self, name: str, help: str, read: Callable[[], float]) -> None:  # noqa: A002 - its word here
        """Show what `read` answers at each scrape as the counter `name` + `_total`."""
        self._reads[name] = _Read(name, help, read, counter=True)

    def exposition(self) -> bytes:
        """Spell everything in Prometheus' text format (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)

    def families(self) -> Iterator[Metric]:
        """Build every metric family from the counts as they stand."""
        requests = CounterMetricFamily("corral_requests", "Ended requests.", labels=("route", "status", "ending"))
        for (route, status, ending), count in self._requests.items():
            requests.add_metric((route, str(status), ending), count)
        yield requests
        refusals = CounterMetricFamily(
            "corral_refusals", "Requests that the guard itself refused.", labels=("reason", "limit")
        )
        for (reason, limit), count in self._refusals.items():
            refusals.add_metric((reason, limit), count)
        yield refusals
        tokens = CounterMetricFamily("corral_tokens", "Tokens that the server reported.", labels=("direction",))
        tokens.add_metric(("prompt",), self._prompt_tokens)
        tokens.add_metric(("completion",), self._completion_tokens)
        yield tokens
        transferred = CounterMetricFamily("corral_bytes", "Bytes of requests and answers.", labels=("direction",))
        transferred.add_metric(("in",), self._bytes_in)
        transferred.add_metric(("out",), self._bytes_out)
        yield transferred
        yield CounterMetricFamily(
            "corral_compute_seconds",
            "Time that the server reported to have computed, prompts and generation.",
            value=self._compute_ms / 1000,
        )
        yield from self._client_families()
        yield from self._histogram_families()
        build = GaugeMetricFamily("corral_build_info", "The version that runs; always 1.", labels=("version",))
        build.add_metric((__version__,), 1)
        yield build
        for name, help_text, read, is_counter in self._reads.values():
            family = CounterMetricFamily if is_counter else GaugeMetricFamily
            yield family(name, help_text, value=read())

    def _client_families(self) -> Iterator[Metric]:
        served = CounterMetricFamily(
            "corral_client_requests", "Requests served for each key, by its name.", labels=("client",)
        )
        tokens = CounterMetricFamily(
            "corral_client_tokens", "Tokens that the server reported for each key.", labels=("client",)
        )
        for client, (count, used) in self._clients.items():
            served.add_metric((client,), count)
            tokens.add_metric((client,), used)
        yield served
        yield tokens

    def _histogram_families(self) -> Iterator[Metric]:
        for name, help_text, histogram in (
            ("duration", "From a request's head to the end of its answer.", self._duration),
            ("wait", "Time that requests waited for a place.", self._wait),
            (
                "first_byte",
                "From a request's head to the first byte of the server's answer.",
                self._first_byte,
            ),
        ):
            yield HistogramMetricFamily(
                f"corral_request_{name}_seconds",
                f"{help_text} Requests that the guard refused are left out.",
                buckets=histogram.buckets(),
                sum_value=histogram.total,
            )

    def _refused(self, reason: str, limit: str) -> None:
        key = (reason, limit)
        if key in self._refusals:
            self._refusals[key] += 1
        else:
            _count_new(self._refusals, key, ("other", "other"))

    def _client(self, client: str, tokens: int) -> None:
        counts = self._clients.get(client)
        if counts is None:
            if len(self._clients) >= _MAX_SERIES:
                client = "other"
            counts = self._clients.setdefault(client, [0, 0])
        counts[0] += 1
        counts[1] += tokens


class _Families(Collector):
    """What prometheus_client asks at each scrape."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families()


def _count_new(counts: dict[_Key, int], key: _Key, other: _Key) -> None:
    """Begin to count `key`, or count it as `other` once there are too many."""
    if len(counts) >= _MAX_SERIES:
        key = other
    counts[key] = counts.get(key, 0) + 1
