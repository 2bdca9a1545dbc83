"""A model of an inference server with continuous batching, on which admission can be tried in virtual time.

Whatever runs takes part in each step of the batch: a new request brings its whole prompt into one step, and then takes a
token of each. A step lasts longer the more it does, so that each request slows the others down, as on a real server.
The figures were measured on one core with the model that the goodput benchmark makes.
"""

from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from random import Random

from corral.engine.admission import Admission, Running, Waiting
from corral.engine.fairqueue import service

PROMPT = 0.0009
"""Seconds for a token of a prompt."""

STEP = (0.0, 0.0033, 0.0054, 0.0061, 0.0077)
"""Seconds for a token of each of so many answers."""


@dataclass(eq=False, slots=True)
class Request:
    """One request: when it comes, from whom, and how long it is. `first` is when its first token came."""

    at: float
    client: str
    prompt: int
    answer: int
    left: int = 0
    first: float = inf
    ended: float = inf


@dataclass(slots=True)
class ModelledServer:
    """Serves requests as admission lets them in. Who floods keeps `flood` requests inside, whatever happens to them."""

    admission: Admission[Request]
    flooding: tuple[str, ...] = ()
    flood: int = 0
    now: float = 0.0
    served: dict[str, int] = field(default_factory=dict)
    _running: list[Request] = field(default_factory=list)
    _due: list[tuple[float, int, Request]] = field(default_factory=list)
    _numbers: "count[int]" = field(default_factory=count)
    _looked: float = 0.0

    def serve(self, requests: list[Request], until: float) -> None:
        """Serve `requests` as they come, until there is nothing left of them, `until` at the latest."""
        for request in requests:
            self._expect(request)
        for client in self.flooding:
            for _ in range(self.flood):
                self._expect(Request(0.0, client, 90, 64))
        while self.now < until and any(request.ended == inf for request in requests):
            self._look()
            if self._running:
                self._step()
            else:
                self.now = max(self.now + 0.001, min(self._due[0][0] if self._due else until, self._looked + 0.25))

    def _expect(self, request: Request) -> None:
        heappush(self._due, (request.at, next(self._numbers), request))

    def _look(self) -> None:
        while self._due and self._due[0][0] <= self.now:
            request = heappop(self._due)[2]
            estimate = service(request.prompt, request.answer)
            outcome = self.admission.enter(request, self.now, client=request.client, estimate=estimate)
            if isinstance(outcome, Running):
                self._start([request])
            elif isinstance(outcome, Waiting):
                self._refused(outcome.displaced)
            else:
                self._refused([request])
        if self.now >= self._looked + 0.25:
            self._looked = self.now
            self._refused(self.admission.expire(self.now))
            self._start(self.admission.follow(self.now))

    def _start(self, requests: list[Request]) -> None:
        for request in requests:
            request.left = request.answer
            self._running.append(request)

    def _refused(self, requests: "list[Request] | tuple[Request, ...]") -> None:
        for request in requests:
            self._again(request)

    def _again(self, request: Request) -> None:
        if request.client in self.flooding:
            self._expect(Request(self.now + 0.1, request.client, request.prompt, request.answer))

    def _step(self) -> None:
        new = [request for request in self._running if request.first == inf]
        self.now += PROMPT * sum(request.prompt for request in new) + STEP[len(self._running) - len(new)]
        for request in list(self._running):
            request.first = min(request.first, self.now)
            request.left -= 1
            if request.left <= 0:
                self._end(request)

    def _end(self, request: Request) -> None:
        request.ended = self.now
        self.served[request.client] = self.served.get(request.client, 0) + 1
        self._running.remove(request)
        self._again(request)
        self.admission.settle(request, service(request.prompt, request.answer))
        self._start(self.admission.abandon(request, self.now))


def bursty(seed: int, *, clients: int, rate: float, seconds: float, start: float = 0.0) -> list[Request]:
    """Draw the requests of `clients` together, `rate` a second in the mean, in bursts of four in the mean."""
    dice, at, requests = Random(seed), start, []
    while True:
        at += dice.expovariate(rate / 4)
        for _ in range(int(dice.expovariate(1 / 4)) + 1):
            if at >= start + seconds:
                return requests
            prompt, answer = 60 + int(dice.expovariate(1 / 100)), 2 + int(dice.expovariate(1 / 20))
            requests.append(Request(at, f"client-{len(requests) % clients}", min(prompt, 450), min(answer, 64)))
            at += dice.expovariate(10.0)
