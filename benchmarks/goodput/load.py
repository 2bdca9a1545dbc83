"""Clients: honest ones that follow a trace, and flooding ones. Open loop: nobody waits for an answer to ask again."""

import asyncio
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from benchmarks.goodput.trace import Arrival

PATIENCE = 30.0
"""Seconds that an honest client waits for its whole answer."""

_WORDS = ("the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not")


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks: the loopback address to come from, and a key."""

    address: str
    key: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request: its status (0: none), whether it came whole, and the time to its first token.

    Times are in seconds from the moment when it was to be sent, so that a late sender hides nothing.
    """

    status: int
    whole: bool
    first_token: float


async def ask(port: int, person: Person, arrival: Arrival, due: float, number: int) -> Answer:
    """Stream one chat completion over a connection of its own."""
    status, first, whole = 0, math.inf, False
    writer = None
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(person.address, 0))
            words = random.Random(number)
            text = " ".join(words.choice(_WORDS) for _ in range(arrival.prompt_tokens // 2))
            prompt = text[: arrival.prompt_tokens]  # the small model's tokens are single characters
            body = json.dumps(
                {
                    "messages": [{"role": "user", "content": prompt}],
                    "max_tokens": arrival.answer_tokens,
                    "stream": True,
                    "cache_prompt": False,
                },
                separators=(",", ":"),
            ).encode()
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Authorization: Bearer %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                % (person.key.encode(), len(body))
                + body
            )
            status = int((await reader.readline()).split()[1])
            while line := await reader.readline():
                if line.startswith(b"data: ") and b'"content":"' in line and first == math.inf:
                    first = monotonic() - due
                whole = whole or line.startswith(b"data: [DONE]")
    except (OSError, TimeoutError, IndexError, ValueError):
        pass
    finally:
        if writer is not None:
            writer.transport.abort()
    return Answer(status, whole and status == 200, first)


async def follow(port: int, people: Sequence[Person], schedule: Sequence[Arrival]) -> list[Answer]:
    """Send the requests of `schedule` when they are due, each by the next of `people` in turn."""
    start = monotonic()
    tasks: list[asyncio.Task[Answer]] = []
    async with asyncio.TaskGroup() as group:
        for number, arrival in enumerate(schedule):
            due = start + arrival.at
            await asyncio.sleep(max(0.0, due - monotonic()))
            tasks.append(group.create_task(ask(port, people[number % len(people)], arrival, due, number)))
    return [task.result() for task in tasks]


async def flood(port: int, people: Sequence[Person], rate: float, at_once: int) -> None:
    """Ask `rate` times a second in all, until cancelled; each of `people` has at most `at_once` requests under way."""
    open_for = dict.fromkeys(people, 0)
    number, start = 0, monotonic()

    async def one(person: Person, arrival: Arrival, due: float, number: int) -> None:
        try:
            await ask(port, person, arrival, due, number)
        finally:
            open_for[person] -= 1

    async with asyncio.TaskGroup() as group:
        while True:
            await asyncio.sleep(max(0.001, start + number / rate - monotonic()))
            while start + number / rate <= monotonic():
                number += 1
                person = people[number % len(people)]
                if open_for[person] < at_once:
                    open_for[person] += 1
                    group.create_task(one(person, Arrival(0.0, 32, 64), monotonic(), -number))
