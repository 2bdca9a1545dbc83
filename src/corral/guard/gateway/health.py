"""Whether the inference server is well: asked at most once a second, however often the guard is."""

from collections.abc import Callable

from corral.guard.gateway.upstream import UpstreamConnection, UpstreamPool

_FRESH = 1.0
_PATIENCE = 5.0

_ANSWERS = {
    200: (b"OK", b'{"status":"ok"}'),
    503: (b"Service Unavailable", b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'),
}


def health_answer(status: int, date: bytes, *, keep_alive: bool, body: bool) -> bytes:
    """Write the answer to `/health` as llama-server does, for the statuses 200 and 503; `date` is a header line."""
    reason, content = _ANSWERS[status]
    return b"HTTP/1.1 %d %b\r\n%bContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b" % (
        status, reason, date, len(content), b"" if keep_alive else b"Connection: close\r\n", content if body else b"",
    )  # fmt: skip


class Health:
    """Answers `/health` for the server, asked at `path`. A flood of questions costs it one request a second."""

    def __init__(self, pool: UpstreamPool, path: bytes) -> None:
        self._pool = pool
        self._path = path
        self._status = 0
        self._asked_at = float("-inf")
        self._answered_at = float("-inf")
        self._asking = False
        self._waiting: list[Callable[[int], None]] = []
        self._connection: UpstreamConnection | None = None

    @property
    def latest(self) -> int | None:
        """The server's status when it last answered, or was last found not to (0); None before it was asked."""
        return None if self._answered_at < 0.0 else self._status

    def ask(self, now: float, answer: Callable[[int], None]) -> None:
        """Call `answer` with the server's status: 200 is well, 503 loading, 0 not reachable. Perhaps at once."""
        if now - self._answered_at < _FRESH:
            answer(self._status)
            return
        self._waiting.append(answer)
        if not self._asking:
            self._asking = True
            self._asked_at = now
            connection = self._pool.idle()
            if connection is not None:
                self._connected(connection, "")
            else:
                self._pool.connect(self._connected)

    def expire(self, now: float) -> None:
        """Give up on a server that does not answer."""
        if self._asking and now - self._asked_at > _PATIENCE:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.abandon()
            self._settle(0)

    def _connected(self, connection: UpstreamConnection | None, _reason: str) -> None:
        if connection is None:
            self._settle(0)
            return
        if not self._asking:
            connection.abandon()  # it came too late
            return
        self._connection = connection
        connection.send(self, b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (self._path, self._pool.host_header))

    def _settle(self, status: int) -> None:
        self._asking = False
        self._status = status
        self._answered_at = self._pool.now()
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer(status)

    # the server's answer

    def answer_began(self, status: int, content_type: bytes, length: int | None) -> None:  # noqa: ARG002  # protocol
        """Note the status."""
        self._status = status

    def answer_body(self, data: bytes) -> None:
        """Pass over the body."""

    def answer_flush(self) -> None:
        """Nothing is kept."""

    def answer_ended(self) -> None:
        """Tell all who wait."""
        self._connection = None
        self._settle(self._status)

    def answer_failed(self, reason: str, *, untouched: bool) -> None:  # noqa: ARG002  # protocol
        """Tell all who wait, or ask once more on a new connection."""
        self._connection = None
        if untouched:
            self._pool.connect(self._connected)
        else:
            self._settle(0)
