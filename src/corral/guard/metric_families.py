"""What Prometheus reads, built from the counts as they stand. Names, labels and units are Prometheus' conventions.

https://prometheus.io/docs/practices/naming/: base units (seconds, bytes) as suffixes, counters end in `_total`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from corral import __version__
from corral.dialects.errors import KINDS

if TYPE_CHECKING:
    from corral.guard.metrics import Histogram, Kind, Metrics, Tally

NO_PLAN = "none"
"""The label of requests whose client is on no plan."""

FAILED_LOGINS = ("missing_api_key", "invalid_api_key", "expired_api_key", "revoked_api_key", "invalid_token",
                 "expired_token", "too_many_failed_logins")  # fmt: skip
"""The refusals that are failed attempts to get in."""

UPSTREAM_ERRORS = ("unavailable", "timeout", "broken-off", "server-error")
"""How a request can fail at the server: it cannot be reached, is silent, ends within its answer, or answers 5xx."""

_REFUSALS = tuple(kind for kind in KINDS if not kind.startswith("upstream_"))
"""All that the guard itself refuses for. They are shown before the first one: only what was 0 can be seen to rise."""

_SERVER_ERROR = 500


class Families(Collector):
    """What prometheus_client asks at each scrape."""

    def __init__(self, metrics: "Metrics") -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Build every family."""
        metrics = self._metrics
        tallies = metrics.tallies
        yield from _requests(tallies.items())
        yield _counter(
            "corral_shadow_refusals", "Refusals that did not happen, because what refuses is in shadow.",
            ("reason", "limit", "plan"),
            (((reason, limit, plan or NO_PLAN), count) for (reason, limit, plan), count in metrics.shadowed.items()),
        )  # fmt: skip
        yield from _sums(tallies.items())
        yield from _histograms(metrics)
        build = GaugeMetricFamily("corral_build_info", "The version that runs; always 1.", labels=("version",))
        build.add_metric((__version__,), 1)
        yield build
        for name, help_text, read, is_counter, label in metrics.reads.values():
            kind = CounterMetricFamily if is_counter else GaugeMetricFamily
            family = kind(name, help_text, labels=(label,) if label else ())
            for value_of_label, value in read().items():
                family.add_metric((value_of_label,) if label else (), value)
            yield family


def _requests(tallies: "Iterable[tuple[Kind, Tally]]") -> Iterator[Metric]:
    """Count requests by what became of them."""
    ended: Counter[tuple[str, str, str, str]] = Counter()
    refused: Counter[tuple[str, str, str]] = Counter({(reason, "", NO_PLAN): 0 for reason in _REFUSALS})
    logins = Counter(dict.fromkeys(FAILED_LOGINS, 0))
    errors = Counter(dict.fromkeys(UPSTREAM_ERRORS, 0))
    for (route, status, ending, reason, limit, plan), tally in tallies:
        plan = plan or NO_PLAN  # noqa: PLW2901  # as it is shown
        ended[route, str(status), ending, plan] += tally.requests
        error = upstream_error(status, ending, reason)
        if error:
            errors[error] += tally.requests
        elif reason:
            refused[reason, limit, plan] += tally.requests
            if reason in logins:
                logins[reason] += tally.requests
    yield _counter("corral_requests", "Ended requests.", ("route", "status", "ending", "plan"), ended.items())
    yield _counter(
        "corral_refusals", "Requests that the guard refused before the server had them.", ("reason", "limit", "plan"),
        refused.items(),
    )  # fmt: skip
    yield _counter(
        "corral_failed_logins", "Requests without a valid key or token; part of the refusals.", ("reason",),
        (((reason,), count) for reason, count in logins.items()),
    )  # fmt: skip
    yield _counter(
        "corral_upstream_errors", "Requests that failed at the server.", ("reason",),
        (((reason,), count) for reason, count in errors.items()),
    )  # fmt: skip


def upstream_error(status: int, ending: str, refused: str) -> str:
    """Say how a request failed at the server, one of UPSTREAM_ERRORS; "" if it did not."""
    if refused == "upstream_down":
        return "unavailable"
    if ending == "upstream-failed":
        return "unavailable" if refused else "broken-off"
    if ending == "timed-out":
        return "timeout"
    return "server-error" if ending == "answered" and status >= _SERVER_ERROR else ""


def _sums(tallies: "Iterable[tuple[Kind, Tally]]") -> Iterator[Metric]:
    """Sum up tokens, bytes and computing time."""
    tokens: Counter[tuple[str, str]] = Counter({("input", NO_PLAN): 0, ("output", NO_PLAN): 0})
    received = sent = 0
    compute = 0.0
    for (_, _, _, _, _, plan), tally in tallies:
        received += tally.bytes_in
        sent += tally.bytes_out
        compute += tally.compute_ms
        if tally.prompt or tally.completion:
            tokens["input", plan or NO_PLAN] += tally.prompt
            tokens["output", plan or NO_PLAN] += tally.completion
    yield _counter("corral_tokens", "Tokens that the server reported.", ("direction", "plan"), tokens.items())
    yield _counter(
        "corral_transferred_bytes", "Bytes of requests' bodies and of the server's answers.", ("direction",),
        ((("received",), received), (("sent",), sent)),
    )  # fmt: skip
    yield CounterMetricFamily(
        "corral_compute_seconds",
        "Time that the server reported to have computed, prompts and generation.",
        value=compute / 1000,
    )


def _histograms(metrics: "Metrics") -> Iterator[Metric]:
    for name, help_text, histogram in (
        ("request_duration_seconds", "From a request's head to the end of its answer.", metrics.duration),
        ("queue_wait_seconds", "Time that requests waited for a place.", metrics.wait),
        ("time_to_first_token_seconds", "From a stream's request to the first piece of its answer, waiting included.",
         metrics.first_token),
        ("request_input_tokens", "Tokens of a prompt, as the server reported them.", metrics.prompt),
        ("request_output_tokens", "Tokens of an answer, as the server reported them.", metrics.completion),
    ):  # fmt: skip
        yield HistogramMetricFamily(
            f"corral_{name}",
            f"{help_text} Requests that the guard refused are left out.",
            buckets=_buckets(histogram),
            sum_value=histogram.total,
        )


def _buckets(histogram: "Histogram") -> list[tuple[str, float]]:
    """List the cumulative buckets as the exposition wants them."""
    names = [*(str(float(bound)) for bound in histogram.bounds), "+Inf"]
    seen = 0
    buckets: list[tuple[str, float]] = []
    for name, count in zip(names, histogram.counts, strict=True):
        seen += count
        buckets.append((name, seen))
    return buckets


def _counter(
    name: str, help_text: str, labels: tuple[str, ...], counts: Iterable[tuple[tuple[str, ...], int]]
) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for values, count in counts:
        family.add_metric(values, count)
    return family
