"""Have the server count prompts, for limits that want them exact. Bounded in every direction, so that it is no attack.

A count takes a thread of the server's, and none of its slots: it is asked for before a place is. So many run at once,
so many wait, each takes so long at most, and a prompt that was counted a moment ago is not counted again. What is not
counted is estimated: no request is refused because counting failed.
"""

import secrets
from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING

import orjson

from corral.dialects.model import Counter
from corral.guard.gateway.upstream import UpstreamConnection

if TYPE_CHECKING:
    import asyncio

    from corral.guard.gateway.core import Core
    from corral.guard.gateway.exchange import Exchange
    from corral.guard.gateway.upstreams import UpstreamServer

OUTCOMES = ("counted", "known", "unasked", "crowded", "failed", "late", "left")
"""What becomes of a prompt that is to be counted: the server did, or had a moment ago; it cannot be asked for this one,
or is asked for too many; its answer was none, or came too late; the client has left. All but two are estimated."""

AT_ONCE = 2
"""Counts that run at once."""

_WAITING = 32
"""Counts that may wait for those."""

_PATIENCE = 2.0
"""Seconds that one may take, waiting included."""

_LONGEST = 16 * 1024
"""Bytes of the longest answer, where it does not list the tokens."""

_REMEMBERED = 1024
"""How many counts are remembered, by a keyed hash of what was asked."""

_FRESH = 60.0
"""Seconds that they are: the server may get another model."""


class Counting:
    """Counts prompts for the exchanges of one guard, which are told by `Exchange.counted`."""

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._secret = secrets.token_bytes(32)
        self._known: dict[bytes, tuple[int, float]] = {}
        self._running: set[Count] = set()
        self._waiting: deque[Count] = deque()
        self.outcomes = dict.fromkeys(OUTCOMES, 0)

    def count(self, exchange: "Exchange", counter: Counter, body: bytes) -> "Count | None":
        """Have the prompt of `body` counted, and the exchange told. None where it has been, at once."""
        if self._core.upstreams.away:
            self._tell(exchange, "failed", None)
            return None
        question = counter.question(body)
        if question is None:
            self._tell(exchange, "unasked", None)
            return None
        mark = blake2b(b"%b %b" % (counter.path, question), key=self._secret, digest_size=16).digest()
        now = self._core.now()
        tokens, until = self._known.get(mark, (0, 0.0))
        if now < until:
            self._tell(exchange, "known", tokens)
            return None
        if self._server() is None and len(self._waiting) >= _WAITING:
            self._tell(exchange, "crowded", None)
            return None
        count = Count(self, exchange, counter, question, mark)
        count.timer = self._core.loop.call_later(_PATIENCE, count.late)
        self._waiting.append(count)
        self._follow()
        return None if count.over else count

    def _server(self) -> "UpstreamServer | None":
        """Find who may count one more: never at the cost of connections that places of the server may need."""
        server = self._core.spare_server()
        if server is None:
            return None
        places = min(server.load.slots, self._core.upstreams.balance.places)
        spare = server.settings.max_connections - places - 1
        return server if len(self._running) < min(AT_ONCE, spare) else None

    def _follow(self) -> None:
        while self._waiting and (server := self._server()) is not None:
            count = self._waiting.popleft()
            self._running.add(count)
            count.start(server)

    def ended(self, count: "Count", outcome: str, tokens: int | None) -> None:
        """Note how a count ended, and let the next one run."""
        self._running.discard(count)
        if count in self._waiting:
            self._waiting.remove(count)
        if tokens is not None:
            self._remember(count.mark, tokens)
        # Not at once: whoever waits may fail at once, too.
        self._core.loop.call_soon(self._follow)
        self._tell(count.exchange, outcome, tokens, asked=count.asked)

    def _remember(self, mark: bytes, tokens: int) -> None:
        self._known.pop(mark, None)
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[mark] = (tokens, self._core.now() + _FRESH)

    def _tell(self, exchange: "Exchange", outcome: str, tokens: int | None, *, asked: bool = False) -> None:
        self.outcomes[outcome] += 1
        if outcome != "left":
            exchange.counted(tokens, asked=asked)


class Count:
    """One prompt that is counted: reads the server's answer. `asked` says that the server has had the question."""

    def __init__(
        self, counting: Counting, exchange: "Exchange", counter: Counter, question: bytes, mark: bytes
    ) -> None:
        self.exchange = exchange
        self.mark = mark
        self.asked = False
        self.over = False
        self.timer: asyncio.TimerHandle | None = None
        self._counting = counting
        self._counter = counter
        self._question = question
        self._longest = _LONGEST + counter.per_byte * len(question)
        self._server: UpstreamServer | None = None
        self._connection: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._again = False
        self._status = 0
        self._answer: list[bytes] = []
        self._size = 0

    def start(self, server: "UpstreamServer") -> None:
        """Ask the server."""
        self._server = server
        connection = server.pool.idle()
        if connection is not None:
            self._connected(connection, "")
        else:
            self._connecting = server.pool.connect(self._connected)

    def late(self) -> None:
        """Give up: the server takes too long."""
        self._give_up("late")

    def cancel(self) -> None:
        """Give up: nobody waits for it any more."""
        self._give_up("left")

    def _give_up(self, outcome: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        if self._connecting is not None:
            self._connecting.cancel()
        self._end(outcome, None)

    def _end(self, outcome: str, tokens: int | None) -> None:
        if self.over:
            return
        self.over = True
        if self.timer is not None:
            self.timer.cancel()
        self._counting.ended(self, outcome, tokens)

    def _connected(self, connection: UpstreamConnection | None, _reason: str) -> None:
        self._connecting = None
        server = self._server
        if connection is None or server is None:
            self._end("failed", None)
        elif self.over:
            connection.abandon()
        else:
            self._connection = connection
            self.asked = True
            connection.send(self, server.question_head(self._counter.path, len(self._question)) + self._question)

    # the server's answer

    def answer_began(self, status: int, content_type: bytes, length: int | None) -> None:  # noqa: ARG002  # protocol
        """Note the status."""
        self._status = status

    def answer_body(self, data: bytes) -> None:
        """Keep what may be an answer."""
        self._size += len(data)
        if self._size <= self._longest:
            self._answer.append(data)

    def answer_flush(self) -> None:
        """Give up on an answer that is none."""
        if self._size > self._longest:
            self._give_up("failed")

    def answer_ended(self) -> None:
        """Read the answer."""
        self._connection = None
        tokens = self._read()
        self._end("failed" if tokens is None else "counted", tokens)

    def answer_failed(self, reason: str, *, untouched: bool) -> None:  # noqa: ARG002  # protocol
        """Ask once more on a new connection where an idle one turned out to be closed."""
        self._connection = None
        if untouched and not self._again and not self.over and self._server is not None:
            self._again = True
            self._connecting = self._server.pool.connect(self._connected)
        else:
            self._end("failed", None)

    def _read(self) -> int | None:
        if self._status != 200:
            return None
        try:
            answer = orjson.loads(b"".join(self._answer))
        except orjson.JSONDecodeError:
            return None
        return self._counter.count(answer) if isinstance(answer, dict) else None
