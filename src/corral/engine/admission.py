"""Places at the server: so many run at once, so many wait in a bounded queue, and nobody waits for ever.

Pure: the caller tells the time, and starts whoever a call returns.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

_WEIGHT = 0.1
"""The share of the newest service in the mean service time."""


@dataclass(frozen=True, slots=True)
class Running:
    """The request has a place."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The request stands in the queue until `deadline`, in seconds."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The queue is full; `retry_after` seconds until there should be a place, by the service measured so far."""

    retry_after: float


_RUNNING = Running()


class Admission(Generic[T]):
    """Hands out `max_running` places, first come first served; `max_waiting` may wait, `max_wait` seconds each.

    Whoever was given a place, or stands in the queue, must be ended by `abandon` exactly once, except those that
    `expire` returns.
    """

    def __init__(self, max_running: int, max_waiting: int, max_wait: float) -> None:
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._max_wait = max_wait
        self._running: dict[T, float] = {}
        self._queue: OrderedDict[T, float] = OrderedDict()
        self._service = 1.0

    @property
    def running(self) -> int:
        """How many have a place."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many stand in the queue."""
        return len(self._queue)

    def enter(self, ticket: T, now: float) -> Running | Waiting | Refused:
        """Ask for a place."""
        if len(self._running) < self._max_running:
            self._running[ticket] = now
            return _RUNNING
        if len(self._queue) >= self._max_waiting:
            return Refused(self.expected_wait())
        self._queue[ticket] = now + self._max_wait
        return Waiting(now + self._max_wait)

    def abandon(self, ticket: T, now: float) -> list[T]:
        """End a ticket, running or waiting; one that is neither is passed over. Returns who runs now in its stead."""
        since = self._running.pop(ticket, None)
        if since is None:
            self._queue.pop(ticket, None)
            return []
        self._service += _WEIGHT * (now - since - self._service)
        started: list[T] = []
        while self._queue and len(self._running) < self._max_running:
            following, _ = self._queue.popitem(last=False)
            self._running[following] = now
            started.append(following)
        return started

    def expire(self, now: float) -> list[T]:
        """Take out of the queue who has waited too long."""
        overdue: list[T] = []
        while self._queue:
            ticket, deadline = next(iter(self._queue.items()))
            if deadline > now:
                break
            del self._queue[ticket]
            overdue.append(ticket)
        return overdue

    def expected_wait(self) -> float:
        """Predict when there will be a place, in seconds: the queue's length times the mean service, ≥ 1."""
        rounds = (len(self._queue) + 1) / self._max_running
        return float(min(max(1, math.ceil(rounds * self._service)), max(1, math.ceil(2 * self._max_wait))))
