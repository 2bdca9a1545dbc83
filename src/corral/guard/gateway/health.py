"""Whether the servers are well, as clients ask it: found out at most once a second, however often they do."""

from collections.abc import Callable

from corral.guard.gateway.upstreams import Upstreams

_FRESH = 1.0

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
    """Answers `/health` for the servers. A flood of questions costs each of them one a second."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self._waiting: list[Callable[[int], None]] = []

    def ask(self, now: float, answer: Callable[[int], None]) -> None:
        """Call `answer` with 200 if a server is well, 503 if one is loading, 0 if none answers. Perhaps at once."""
        if all(now - server.found_at < _FRESH for server in self._upstreams.servers):
            answer(self._status())
            return
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            self._upstreams.ask(self._settle)

    def _settle(self) -> None:
        status = self._status()
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer(status)

    def _status(self) -> int:
        found = [server.found for server in self._upstreams.servers]
        if any(probed.well for probed in found):
            return 200
        return 503 if any(probed.status == 503 for probed in found) else 0
