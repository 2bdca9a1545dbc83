"""Requests that end in every way there is, and what each must be charged: the same over sockets and in virtual time."""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from corral.engine.decision import Hold
from corral.engine.measures import FREE, TOKEN_MEASURES, Costs
from corral.guard.record import Finished
from running_guard import Seen, answer, post

ENDINGS = (
    "finished", "streamed", "less", "more", "silent on usage", "stream silent on usage", "half of the usage",
    "refused by the server", "loading", "failed by the server", "crashed at once", "crashed midway",
    "crashed midway, counted", "left midway", "left midway, counted", "left soon", "never answered", "stalled midway",
    "too long", "malformed", "no body",
)  # fmt: skip
"""How lives may end. Besides, any of them may find no place, wait in vain, or not reach the server."""

_WORDS = 3
"""How many tokens each stream brings."""

_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Life:
    """One request: how it is to end, and what has become of it. Its `maximum` is like no other's: it tells them apart."""

    number: int
    ending: str
    maximum: int
    prompt: int
    completion: int
    patience: float
    reached: int = 0
    certain: bool = True
    """Whether what the server was sent it has read, and what it has sent the guard has read: over sockets it may be lost."""
    passed: tuple[int | None, int | None] = (None, None)
    """The usage that the server has told so far."""

    def expected(self, reserved: Costs, record: Finished) -> tuple[Costs, ...]:
        """Say what may be charged, by the words of the documentation alone: nearly always one thing."""
        _, prompt, completion = reserved
        if not self.certain and record.ending in ("client-left", "timed-out"):
            return reserved, *replace(self, certain=True).expected(reserved, record)
        if not self.reached or (record.ending == "answered" and (400 <= record.status < 500 or record.status == 503)):
            return (FREE[:TOKEN_MEASURES],)
        told_prompt, told_completion = self.passed if record.status == 200 else (None, None)
        prompt = prompt if told_prompt is None else told_prompt
        completion = completion if told_completion is None else told_completion
        if self.ending == "crashed at once" and record.status == 502:
            # On a kept connection this looks like one that was closed before the request: it is sent again, and where
            # that cannot be, nobody has worked on it.
            return (prompt + completion, prompt, completion), FREE[:TOKEN_MEASURES]
        # What has passed is charged in any case; only the first lives reserve less than the server streams.
        passed = range(_WORDS + 1) if record.status == 200 and told_completion is None else (0,)
        answers = {max(completion, words) for words in passed}
        return tuple((prompt + answer, prompt, answer) for answer in answers)


@dataclass
class Lives:
    """Many lives; the handler of the server in which they end, and what became of them."""

    seed: int
    patience: float = 0.05
    certain: bool = True
    lives: list[Life] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def draw(self) -> Life:
        """Draw the next life."""
        chance = self._chance
        life = Life(
            len(self.lives), chance.choice(ENDINGS), len(self.lives) + 1, chance.randint(1, 300), 0,
            chance.random() * self.patience, certain=self.certain,
        )  # fmt: skip
        life.completion = chance.randint(0, life.maximum) + (chance.randint(1, 50) if life.ending == "more" else 0)
        self.lives.append(life)
        return life

    # the server

    async def handle(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        """Serve one request as its life says."""
        life = self.lives[int(seen.json["messages"][0]["content"].split()[1])]
        life.reached += 1
        ending = life.ending
        counted = {"usage": {"prompt_tokens": life.prompt, "completion_tokens": life.completion}}
        await asyncio.sleep(life.patience / 2)
        if ending == "silent on usage":
            writer.write(answer({"choices": []}))
        elif ending == "half of the usage":
            life.passed = (life.prompt, None)
            writer.write(answer({"choices": [], "usage": {"prompt_tokens": life.prompt}}))
        elif ending == "refused by the server":
            writer.write(answer({"error": "no"}, "422 Unprocessable Content"))
        elif ending == "loading":
            writer.write(answer({"error": "loading"}, "503 Service Unavailable"))
        elif ending == "failed by the server":
            writer.write(answer({"error": "failed", **counted}, "500 Internal Server Error"))
        elif ending == "crashed at once":
            writer.transport.abort()
        elif ending == "never answered":
            await asyncio.sleep(3600)
        elif ending in ("streamed", "stream silent on usage", "too long") or "midway" in ending:
            await self._stream(life, counted, writer)
        else:
            life.passed = (life.prompt, life.completion)
            writer.write(answer({"choices": [], **counted}))

    async def _stream(self, life: Life, counted: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        event: dict[str, Any] = {"choices": [{"delta": {"content": "word"}}]}
        if life.ending == "too long":
            event["choices"][0]["delta"]["content"] = "word" * 10_000
        if life.ending.endswith("counted"):
            event |= counted
            life.passed = (life.prompt, life.completion)
        writer.write(_STREAM)
        for _ in range(_WORDS):
            writer.write(_chunk(event))
            await writer.drain()
            await asyncio.sleep(life.patience / 10)
        if life.ending.startswith("crashed"):
            await asyncio.sleep(0.01)
            writer.transport.abort()
        elif "midway" in life.ending:
            await asyncio.sleep(3600)
        else:
            if life.ending == "streamed":
                life.passed = (life.prompt, life.completion)
                writer.write(_chunk({"choices": [], **counted}))
            writer.write(b"c\r\ndata: [DONE]\r\n2\r\n\n\n\r\n0\r\n\r\n")

    # the client

    async def live(self, port: int, life: Life) -> None:
        """Send one request, and end as its life says."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        try:
            body: Any = {
                "messages": [{"role": "user", "content": f"life {life.number} {'word ' * (life.number % 40)}"}],
                "max_tokens": life.maximum,
                "stream": "stream" in life.ending or "midway" in life.ending or life.ending == "too long",
            }
            sent = post(body, headers="Connection: close\r\n")
            if life.ending == "malformed":
                sent = post(b'{"messages": [', headers="Connection: close\r\n")
            elif life.ending == "no body":
                sent = sent[:-5]
            writer.write(sent)
            if life.ending in ("left soon", "no body"):
                await asyncio.sleep(life.patience)
            elif life.ending.startswith("left midway"):
                data = b""
                while data.count(b"data: ") < 3 and (part := await reader.read(65536)):
                    data += part
            else:
                while await reader.read(65536):
                    pass
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)  # only then it is closed


def _chunk(event: dict[str, Any]) -> bytes:
    data = b"data: " + json.dumps(event).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


class Ledger:
    """A store that writes down what is held and settled, and for which request."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.records: list[Finished] = []
        self.holds: list[tuple[Hold, Costs]] = []
        self.settled: dict[Hold, list[tuple[Costs, int]]] = {}
        self.charged = 0
        self.bind, self.take, self.give_back, self.peek = store.bind, store.take, store.give_back, store.peek
        self.follow_wall = store.follow_wall

    def __len__(self) -> int:
        return len(self.store)

    def hold(self, client: Any, now: float, costs: Costs, shadow_costs: Costs | None = None) -> Any:
        outcome = self.store.hold(client, now, costs, shadow_costs)
        if isinstance(outcome, Hold):
            self.holds.append((outcome, costs))
        return outcome

    def settle(self, hold: Hold, now: float, costs: Costs) -> None:
        self.store.settle(hold, now, costs)
        self.settled.setdefault(hold, []).append((costs, len(self.records)))  # its record is the next one

    def check(self, lives: Lives) -> Counter[str]:
        """Hold what was charged against what each life must be; returns how often each ending was reached."""
        seen: Counter[str] = Counter()
        reserved = charged = refunded = overrun = 0
        for hold, costs in self.holds:
            ((used, index),) = self.settled.get(hold, [])  # exactly once
            life, record = lives.lives[costs[2] - 1], self.records[index]
            assert used[:TOKEN_MEASURES] in life.expected(costs[:TOKEN_MEASURES], record), (life, record, costs, used)
            seen[record.ending if life.reached else f"{record.ending}, unreached"] += 1
            reserved += costs[0]
            charged += used[0]
            refunded += max(0, costs[1] - used[1]) + max(0, costs[2] - used[2])
            overrun += max(0, used[1] - costs[1]) + max(0, used[2] - costs[2])
        assert reserved + overrun == charged + refunded
        self.charged = charged
        assert not any(hold.open for hold, _ in self.holds)
        assert self.store.held == 0
        return seen
