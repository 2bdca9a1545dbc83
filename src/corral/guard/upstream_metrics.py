"""What a running guard shows of each server at each scrape. The only label is its name, which the policy gives it."""

from collections.abc import Callable

from corral.engine.circuit import STATES
from corral.guard.gateway.upstreams import Upstreams, UpstreamServer
from corral.guard.metrics import Metrics

_SHOWN: tuple[tuple[str, str, Callable[[UpstreamServer], float]], ...] = (
    ("up", "1 if requests are sent to the server, else 0.", lambda server: float(server.load.usable)),
    ("circuit", "0 while its circuit is closed, 1 half-open, 2 open.",
     lambda server: STATES.index(server.circuit.state)),
    ("slots", "Requests that the server works on at once.", lambda server: server.load.slots),
    ("running_requests", "Requests that hold one of its slots.", lambda server: server.load.running),
    ("outstanding_tokens", "Tokens that those requests may use at most.", lambda server: server.load.outstanding),
    ("connections", "Open connections to the server.", lambda server: server.pool.open_connections),
)  # fmt: skip


def show_servers(metrics: Metrics, upstreams: Upstreams) -> None:
    """Have `metrics` read how each server stands."""

    def each(read: Callable[[UpstreamServer], float]) -> Callable[[], dict[str, float]]:
        return lambda: {server.name: read(server) for server in upstreams.servers}

    for name, said, read in _SHOWN:
        metrics.gauges(f"corral_upstream_{name}", said, "upstream", each(read))
    metrics.counters(
        "corral_upstream_failures", "Requests and health checks that failed at the server, and show it to be ill.",
        "upstream", each(lambda server: server.failures),
    )  # fmt: skip
