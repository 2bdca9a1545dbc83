"""Starts the export of traces where the policy wants it, and says what is missing where it cannot."""

from importlib import import_module
from typing import TYPE_CHECKING

from corral.errors import PolicyError
from corral.policy.model import Policy

if TYPE_CHECKING:
    from corral.guard.metrics import Metrics
    from corral.guard.traces.exporter import TraceExporter


def open_traces(policy: Policy, *, inside: bool = False) -> "TraceExporter | None":
    """Start to export by the policy's `[telemetry]`; None where it names no endpoint. `inside` is for middleware.

    Raises:
        PolicyError: the extra is not installed.

    """
    check_traces(policy)
    if policy.telemetry.endpoint is None:
        return None
    from corral.guard.traces.exporter import TraceExporter  # noqa: PLC0415  # loaded only where it is needed

    return TraceExporter(policy, inside=inside)


def check_traces(policy: Policy) -> None:
    """Make sure that what the policy's `[telemetry]` needs is there, before a model is loaded for minutes.

    Raises:
        PolicyError: the extra is not installed.

    """
    if policy.telemetry.endpoint is None:
        return
    try:
        import_module("corral.guard.traces.exporter")
    except ModuleNotFoundError as error:
        raise PolicyError(
            f"[telemetry] needs {error.name}, which is not installed: pip install 'corral[otel]'"
        ) from None


def count_traces(metrics: "Metrics", traces: "TraceExporter") -> None:
    """Show in `metrics` what became of the requests that were chosen."""
    metrics.counter("corral_traces_exported", "Requests whose spans the collector took.", lambda: traces.exported)
    metrics.counter("corral_traces_dropped", "Requests whose spans were lost: the collector was away or too slow.",
                    lambda: traces.dropped)  # fmt: skip
