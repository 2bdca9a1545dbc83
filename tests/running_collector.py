"""A collector of traces: takes OTLP over real HTTP, and decodes it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PATIENCE = 30.0


class Collector:
    """What arrived: each request's headers and its spans. `statuses` are answered in turn, then 200."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.body = b""
        self.port = 0
        self._news = threading.Condition()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/traces"

    def take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Take one request, and say what to answer."""
        with self._news:
            assert path == "/v1/traces"
            self.requests.append(headers)
            status = self.statuses.pop(0) if self.statuses else 200
            if status == 200:
                for whole in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self.resources.append(attributes(whole.resource))
                    for scoped in whole.scope_spans:
                        self.spans += scoped.spans
            self._news.notify_all()
            return status, self.body

    def wait_for(self, count: int) -> list[Span]:
        """Wait for so many spans."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.spans) >= count, PATIENCE), self.spans
            return list(self.spans)


def attributes(holder: Any) -> dict[str, Any]:
    """Read the attributes of a span or a resource."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in holder.attributes}


def by_kind(spans: list[Span]) -> dict[str, Span]:
    """Sort one request's spans: server, queue, trip."""
    found = {}
    for span in spans:
        name = {Span.SPAN_KIND_SERVER: "server", Span.SPAN_KIND_CLIENT: "trip"}.get(span.kind, "inside")
        found["queue" if span.name == "queue" else name] = span
    return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a port of its own."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = collector.take(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()
