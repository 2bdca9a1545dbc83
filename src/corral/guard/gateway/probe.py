"""Ask a server whether it is well and how many slots it has, one question at a time."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import orjson

from corral.guard.gateway.upstream import UpstreamConnection, UpstreamPool

if TYPE_CHECKING:
    import asyncio

_LONGEST = 1024 * 1024
"""The longest answer that is read, in bytes: llama-server's properties hold the model's chat template."""


class Probed(NamedTuple):
    """What a probe found.

    `status` is that of the server's answer, 0 where there was none for `reason`; `slots` None where it did not say.
    """

    status: int
    reason: str = ""
    slots: int | None = None

    @property
    def well(self) -> bool:
        """Whether requests may be sent there: any answer below 500 shows that it serves."""
        return 0 < self.status < 500 and not self.reason


class Probe:
    """Asks `path`, and where that is well and there is one, `slots_path` with the guard's own key.

    `done` is called once for each probe that `start` began. While one is under way no other begins.
    """

    def __init__(
        self, pool: UpstreamPool, path: bytes, slots_path: bytes, api_key: str | None, done: Callable[[Probed], None]
    ) -> None:
        self._pool = pool
        self._path = path
        self._slots_path = slots_path
        self.reload(api_key)
        self._done = done
        self._since = 0.0
        self._asking = b""
        self._first: Probed | None = None
        self._status = 0
        self._body = b""
        self._again = False
        self._connection: UpstreamConnection | None = None
        self._task: asyncio.Task[None] | None = None

    def reload(self, api_key: str | None) -> None:
        """Take another key of the guard's own."""
        head = b"GET %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: corral-probe\r\nAccept: */*\r\n"
        host, slots_path = self._pool.host_header, self._slots_path
        self._question = head % (self._path, host) + b"\r\n"
        key = b"Authorization: Bearer %b\r\n" % api_key.encode() if api_key else b""
        self._second = head % (slots_path, host) + key + b"\r\n" if slots_path else b""

    @property
    def under_way(self) -> bool:
        """Whether the server is being asked."""
        return bool(self._asking)

    def start(self, now: float) -> None:
        """Ask. It must not be under way, nor the pool full."""
        self._since = now
        self._first = None
        self._ask(self._question)

    def expire(self, now: float, patience: float) -> None:
        """Give up on a server that has not answered after `patience` seconds."""
        if self._asking and now - self._since > patience:
            self.stop()
            self._done(Probed(0, "it did not answer in time when it was asked whether it is well"))

    def stop(self) -> None:
        """Ask no more; nobody is told."""
        self._asking = b""
        connection, self._connection = self._connection, None
        task, self._task = self._task, None
        if connection is not None:
            connection.abandon()
        if task is not None:
            task.cancel()

    def _ask(self, question: bytes) -> None:
        self._asking = question
        self._status = 0
        self._body = b""
        self._again = False
        connection = self._pool.idle()
        if connection is not None:
            self._connected(connection, "")
        else:
            self._task = self._pool.connect(self._connected)

    def _connected(self, connection: UpstreamConnection | None, reason: str) -> None:
        self._task = None
        if connection is None:
            self._settle(Probed(0, reason))
        elif not self._asking:
            connection.abandon()  # it came too late
        else:
            self._connection = connection
            connection.send(self, self._asking)

    def _settle(self, found: Probed) -> None:
        self._asking = b""
        self._done(found)

    # the server's answer

    def answer_began(self, status: int, content_type: bytes, length: int | None) -> None:  # noqa: ARG002  # protocol
        """Note the status."""
        self._status = status

    def answer_body(self, data: bytes) -> None:
        """Keep what may say how many slots there are."""
        if self._first is not None and len(self._body) <= _LONGEST:
            self._body += data

    def answer_flush(self) -> None:
        """Nothing is passed on."""

    def answer_ended(self) -> None:
        """Go on to the second question, or tell what was found."""
        self._connection = None
        if not self._asking:
            return
        if self._first is None:
            found = Probed(self._status)
            if self._second and self._status == 200:
                self._first = found
                self._ask(self._second)
            else:
                self._settle(found)
        elif self._status == 401:
            self._settle(Probed(self._status, "the server does not accept the guard's own key"))
        else:
            self._settle(self._first._replace(slots=_slots(self._body) if self._status == 200 else None))

    def answer_failed(self, reason: str, *, untouched: bool) -> None:
        """Ask once more on a new connection where an idle one turned out to be closed; else tell."""
        self._connection = None
        if not self._asking:
            return
        if untouched and not self._again:
            self._again = True
            self._task = self._pool.connect(self._connected)
        else:
            self._settle(Probed(0, reason))


def _slots(body: bytes) -> int | None:
    """Read how many slots llama-server has from its properties; None where they do not say."""
    try:
        properties = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    slots = properties.get("total_slots") if isinstance(properties, dict) else None
    return slots if isinstance(slots, int) and not isinstance(slots, bool) and slots > 0 else None
