"""A request's spans, built from its record once it has ended.

Names are those of OpenTelemetry's semantic conventions: HTTP's (stable, 1.44), and those for generative AI, which are
still in development there. What is Corral's own begins with `corral.`. No prompt, no answer, no key and no path of a
client's is in a span.
"""

from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from corral import __version__
from corral.dialects import dialect
from corral.guard.record import Finished
from corral.guard.traces.context import TraceContext
from corral.policy.model import Policy

Value = str | bool | int | float

_OPERATIONS = {
    "chat": "chat", "responses": "chat", "messages": "chat", "completion": "text_completion",
    "infill": "text_completion", "text-completion": "text_completion", "embedding": "embeddings",
    "embeddings": "embeddings",
}  # fmt: skip
"""gen_ai.operation.name by route."""

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))
_LONGEST = 128  # characters of a model's name: clients write it
_SHORTEST_WAIT = 0.001  # seconds: less is no wait, but the asking
_SERVER_ERROR = 500
_CLIENT_ERROR = 400
_OK, _INTERNAL, _SERVER, _CLIENT = 0, Span.SPAN_KIND_INTERNAL, Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT
_NANOSECONDS = 1e9


class SpanBuilder:
    """Builds spans by one policy. `inside` is for middleware, where the application itself generates."""

    def __init__(self, policy: Policy, *, inside: bool) -> None:
        spoken = dialect(policy.upstream.dialect)
        self._paths = {route.name: route.path.decode() for _, _, route in spoken.routes()}
        self._provider = policy.upstream.dialect
        self._inside = inside
        self._scheme = "https" if policy.listen.tls_certificate else "http"
        parts = urlsplit(policy.upstream.url)
        self._server: dict[str, Value] = {}
        if parts.scheme == "unix":
            self._server = {"server.address": parts.path or parts.netloc}
        elif not inside:
            self._server = {"server.address": parts.hostname or "", "server.port": parts.port or 80}
        self._resource = Resource(
            attributes=_pairs(
                {
                    "service.name": policy.telemetry.service,
                    "service.version": __version__,
                    "telemetry.sdk.name": "corral",
                    "telemetry.sdk.language": "python",
                    "telemetry.sdk.version": __version__,
                }
            )
        )
        self._scope = InstrumentationScope(name="corral", version=__version__)

    def message(self, records: Iterable[Finished]) -> bytes:
        """Write the spans of several requests as the body of an OTLP request."""
        spans = [span for record in records for span in self.spans(record)]
        scoped = ScopeSpans(scope=self._scope, spans=spans)
        whole = ResourceSpans(resource=self._resource, scope_spans=[scoped])
        body: bytes = ExportTraceServiceRequest(resource_spans=[whole]).SerializeToString()
        return body

    def spans(self, record: Finished) -> Iterator[Span]:
        """Build the spans of one request: its own, its wait for a place if it had to, its trip to the server."""
        trace = record.trace
        if trace is None:
            return
        yield self._own(record, trace)
        if trace.queued >= 0 and record.waited >= _SHORTEST_WAIT:
            yield _span(trace, "queue", _INTERNAL, record.at + trace.queued, record.waited, parent=trace.span_id,
                        span_id=(trace.span_id ^ trace.upstream_id) or 1)  # fmt: skip
        if trace.placed >= 0:
            yield self._trip(record, trace)

    def _own(self, record: Finished, trace: TraceContext) -> Span:
        method = record.method if record.method in _METHODS else "_OTHER"
        path = self._paths.get(record.route)
        attributes: dict[str, Value] = {
            "http.request.method": method,
            "url.scheme": self._scheme,
            "client.address": record.address,
            "corral.request_id": record.request_id,
            "corral.route": record.route,
            "corral.ending": record.ending,
        }
        known: dict[str, Value | None] = {
            "http.route": path,
            "http.response.status_code": record.status,
            "corral.client": record.client,
            "corral.plan": record.plan,
            "corral.refused": record.refused,
            "corral.limit": record.limit,
        }
        attributes |= {name: value for name, value in known.items() if value}
        shown = "HTTP" if method == "_OTHER" else method
        return _span(
            trace, f"{shown} {path}" if path else shown, _SERVER, record.at, record.duration,
            parent=trace.parent_id, span_id=trace.span_id, attributes=attributes,
            error=_error(record, _SERVER_ERROR),
        )  # fmt: skip

    def _trip(self, record: Finished, trace: TraceContext) -> Span:
        attributes = dict(self._server)
        operation = _OPERATIONS.get(record.route)
        model = trace.model[:_LONGEST]
        if not self._inside:
            attributes["http.request.method"] = record.method
        if record.status and not record.refused:
            attributes["http.response.status_code"] = record.status
        if operation is None:
            name = record.method
        else:
            name = f"{operation} {model}" if model else operation
            attributes |= {"gen_ai.operation.name": operation, "gen_ai.provider.name": self._provider}
            if model:
                attributes["gen_ai.request.model"] = model
            if record.stream:
                attributes["gen_ai.request.stream"] = True
                if record.first_byte > trace.placed:
                    attributes["gen_ai.response.time_to_first_chunk"] = record.first_byte - trace.placed
            if trace.max_tokens:
                attributes["gen_ai.request.max_tokens"] = trace.max_tokens
        if record.prompt_tokens >= 0:
            attributes["gen_ai.usage.input_tokens"] = record.prompt_tokens
        if record.completion_tokens >= 0:
            attributes["gen_ai.usage.output_tokens"] = record.completion_tokens
        if record.compute_ms >= 0:
            attributes["corral.compute_ms"] = record.compute_ms
        return _span(
            trace, name, _INTERNAL if self._inside else _CLIENT, record.at + trace.placed,
            record.duration - trace.placed, parent=trace.span_id, span_id=trace.upstream_id, attributes=attributes,
            error=_error(record, _CLIENT_ERROR),
        )  # fmt: skip


def _error(record: Finished, least: int) -> str:
    """Name the error that a request ended with, as error.type; "" where it is none: a client that leaves is none."""
    if record.ending in ("upstream-failed", "timed-out"):
        return record.refused or record.ending
    if record.ending == "client-left" or record.status < least:
        return ""
    return record.refused or str(record.status)


def _span(
    trace: TraceContext, name: str, kind: Span.SpanKind.ValueType, start: float, length: float, *, parent: int,
    span_id: int, attributes: dict[str, Value] | None = None, error: str = "",
) -> Span:  # fmt: skip
    begin = int(start * _NANOSECONDS)
    found = attributes or {}
    if error:
        found["error.type"] = error
    return Span(
        trace_id=trace.trace_id.to_bytes(16, "big"),
        span_id=span_id.to_bytes(8, "big"),
        parent_span_id=parent.to_bytes(8, "big") if parent else b"",
        name=name,
        kind=kind,
        start_time_unix_nano=begin,
        end_time_unix_nano=begin + max(0, int(length * _NANOSECONDS)),
        attributes=_pairs(found),
        status=Status(code=Status.STATUS_CODE_ERROR) if error else None,
    )


def _pairs(attributes: dict[str, Value]) -> list[KeyValue]:
    return [KeyValue(key=name, value=_value(value)) for name, value in attributes.items()]


def _value(value: Value) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=value.encode("utf-8", "replace").decode())
