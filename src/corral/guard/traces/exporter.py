"""Sends spans to a collector, beside the traffic and never in its way (OTLP over HTTP, in protobuf).

https://opentelemetry.io/docs/specs/otlp/#otlphttp. Whatever becomes of the collector, requests go on: what finds the
queue full, and what could not be delivered, is counted and lost.
"""

import logging
import threading
from collections import deque
from collections.abc import Mapping

import httpx2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from corral import __version__
from corral.guard.record import Finished
from corral.guard.traces.context import TraceContext, TraceContexts
from corral.guard.traces.spans import SpanBuilder
from corral.policy.model import Policy

_log = logging.getLogger("corral.guard")

_GATHER = 1.0  # seconds between two looks at the queue
_BATCH = 128  # requests sent at once: their spans are built in 5 ms
_TIMEOUT = 10.0  # seconds for one request to the collector
_ATTEMPTS = 5
_FIRST_PAUSE = 1.0  # seconds before the second attempt; doubled before each further one
_LONGEST_PAUSE = 30.0
_RETRIED = frozenset((429, 502, 503, 504))


class TraceExporter:
    """Chooses requests, and exports their spans from a thread of its own. One thread may call `begin` and `record`.

    `exported` and `dropped` count requests since the start.
    """

    def __init__(self, policy: Policy, *, inside: bool = False) -> None:
        telemetry = policy.telemetry
        assert telemetry.endpoint is not None
        self.exported = 0
        self.dropped = 0
        self._contexts = TraceContexts(policy)
        self._builder = SpanBuilder(policy, inside=inside)
        self._endpoint = telemetry.endpoint
        self._capacity = telemetry.max_waiting
        self._waiting: deque[Finished] = deque()
        headers = {"Content-Type": "application/x-protobuf", "User-Agent": f"corral/{__version__}"}
        if telemetry.authorization is not None:
            headers["Authorization"] = telemetry.authorization
        self._client = httpx2.Client(headers=headers, timeout=_TIMEOUT, trust_env=False)
        self._fails = False
        self._closing = threading.Event()
        self.forwards = self._contexts.forwards
        self._thread = threading.Thread(target=self._run, name="corral-traces", daemon=True)
        self._thread.start()

    def begin(self, head: Mapping[bytes, bytes], peer: str) -> TraceContext | None:
        """Choose a request; see `TraceSink.begin`."""
        return self._contexts.begin(head, peer)

    def record(self, finished: Finished) -> None:
        """Take the record of a request that was chosen. Never blocks; a full queue loses it and counts it."""
        if finished.trace is None or not finished.trace.sampled:
            return
        if len(self._waiting) >= self._capacity:
            self.dropped += 1
        else:
            self._waiting.append(finished)

    def close(self, timeout: float = 2.0) -> None:
        """Send what waits, for `timeout` seconds at most, and end; what cannot be sent is lost."""
        self._closing.set()
        self._thread.join(timeout)
        self._client.close()

    def _run(self) -> None:
        """Run the thread."""
        while True:
            closing = self._closing.wait(_GATHER)
            while self._waiting:
                count = min(_BATCH, len(self._waiting))
                batch = [self._waiting.popleft() for _ in range(count)]
                if self._deliver(batch):
                    self.exported += count
                else:
                    self.dropped += count
                    if self._closing.is_set():
                        return
            if closing:
                return

    def _deliver(self, batch: list[Finished]) -> bool:
        """Send a batch, several times if need be; once only when the guard ends."""
        try:
            body = self._builder.message(batch)
        except Exception:  # noqa: BLE001  # one record that cannot be told must not end the thread
            _log.exception("Traces could not be built, and are lost")
            return False
        pause = _FIRST_PAUSE
        for attempt in range(_ATTEMPTS):
            why, again = self._send(body)
            if not why:
                self._fails = False
                return True
            if not self._fails:
                self._fails = True
                _log.warning("Traces cannot be sent to %s: %s. Requests go on; traces are lost.", self._endpoint, why)
            if not again or attempt + 1 == _ATTEMPTS or self._closing.wait(pause):
                break
            pause = min(2 * pause, _LONGEST_PAUSE)
        return False

    def _send(self, body: bytes) -> tuple[str, bool]:
        """Send once: why it failed, "" if it did not, and whether to try again."""
        try:
            answer = self._client.post(self._endpoint, content=body)
        except (httpx2.HTTPError, RuntimeError) as error:  # a closed client raises RuntimeError
            return str(error) or type(error).__name__, True
        if answer.is_success:
            return _rejected(answer.content), False
        return f"it answered {answer.status_code}", answer.status_code in _RETRIED


def _rejected(answer: bytes) -> str:
    """Read what a collector says of spans that it did not take."""
    try:
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
    except Exception:  # noqa: BLE001  # protobuf's own error has moved between its versions; what was sent was taken
        return ""
    return f"it rejected {partial.rejected_spans} spans: {partial.error_message}" if partial.rejected_spans else ""
