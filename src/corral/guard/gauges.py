"""What a running guard shows of its present state at each scrape: nothing of it is counted on the requests' way."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from corral.guard.metrics import Metrics
from corral.guard.upstream_metrics import show_servers

if TYPE_CHECKING:
    from corral.guard.gateway.core import Core
    from corral.guard.gateway.listener import Listener
    from corral.stores.memory import MemoryStore


def show_state(metrics: Metrics, core: "Core", listener: "Listener", store: "Callable[[], MemoryStore]") -> None:
    """Have `metrics` read how the guard stands: its places, its queue, its connections, its server, what it tracks.

    Whatever replaces the policy while the guard runs is followed: bounds are read at each scrape, and `store` answers
    what counts now.
    """
    admission = core.admission

    def held() -> Mapping[str, float]:
        return store().held_tokens()

    metrics.gauge("corral_running_requests", "Requests that hold a place.", lambda: admission.running)
    metrics.gauge(
        "corral_max_running_requests", "Places: how many may run at once.", lambda: core.upstreams.balance.places
    )
    metrics.gauge("corral_waiting_requests", "Requests that wait for a place.", lambda: admission.waiting)
    metrics.gauge(
        "corral_max_waiting_requests", "How many may wait for a place.", lambda: core.policy.concurrency.max_waiting
    )
    metrics.gauge("corral_waiting_bytes", "Bodies that wait for a place.", lambda: admission.waiting_bytes)
    metrics.gauge(
        "corral_max_waiting_bytes", "Bodies that may wait for a place.",
        lambda: core.policy.concurrency.max_waiting_bytes,
    )  # fmt: skip
    metrics.gauge("corral_draining", "1 while the admin API has new requests refused.", lambda: float(core.drained))
    metrics.gauge("corral_connections", "Open client connections.", lambda: len(listener))
    metrics.gauge(
        "corral_max_connections", "Client connections that may be open.", lambda: core.policy.bounds.max_connections
    )
    metrics.counter(
        "corral_turned_away_connections", "Connections refused for their number.", lambda: listener.turned_away
    )
    if core.upstreams.asking:
        show_servers(metrics, core.upstreams)
    metrics.gauge("corral_tracked_clients", "Clients that a limit keeps a count for.", lambda: len(store()))
    metrics.gauges("corral_held_tokens", "Tokens reserved for requests that run, by the limit.", "limit", held)
    metrics.counters(
        "corral_prompt_counts", "Prompts for limits that want them exact, by what became of counting them.", "outcome",
        lambda: core.counting.outcomes,
    )  # fmt: skip
