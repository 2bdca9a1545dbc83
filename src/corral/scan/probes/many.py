"""Many requests: a burst, and a load beside a baseline."""

import asyncio
from dataclasses import dataclass

from corral.scan.budget import BudgetSpentError
from corral.scan.observation import Observation, Reply
from corral.scan.wire import Wire


@dataclass(frozen=True, slots=True)
class Burst:
    """Ask for one token, `requests` times as fast as `at_once` connections can."""

    requests: int = 50
    at_once: int = 10
    phase: int = 3
    inside: bool = False

    async def send(self, wire: Wire) -> list[Observation]:
        """Send the burst. Stops early once ten requests in a row were refused: that proves what is to be proved."""
        seen: list[Observation] = []
        places = asyncio.Semaphore(self.at_once)

        async def one(number: int) -> None:
            async with places:
                if _proved(seen):
                    return
                try:
                    body = wire.chat(f"Burst {number}.", max_tokens=1)
                    sent = f"POST {wire.path}: request {number + 1} of a burst, 1 token"
                    seen.append(await wire.post(body, sent, patient=False))
                except BudgetSpentError:
                    return

        async with asyncio.TaskGroup() as group:
            for number in range(self.requests):
                group.create_task(one(number))
        return seen


def _proved(seen: list[Observation]) -> bool:
    return len(seen) >= 10 and all(observation.reply is Reply.DENY for observation in seen[-10:])


@dataclass(frozen=True, slots=True)
class Load:
    """Ask alone, then `at_once` together, `rounds` times over: the machine's drift then touches both alike.

    Streams of `tokens` tokens; what counts is the time to the first byte.
    """

    rounds: int = 3
    at_once: int = 12
    tokens: int = 32
    phase: int = 2
    inside: bool = True

    async def send(self, wire: Wire) -> list[Observation]:
        """Send the rounds; stops at the first refusal, since a load that is refused cannot be made.

        A request without an answer may have met a kept connection just as the server closed it: only several end it.
        """
        seen: list[Observation] = []
        for turn in range(self.rounds):
            for together in (1, self.at_once):
                asked = [self._one(wire, f"{turn}.{number}", together) for number in range(together)]
                answers = await asyncio.gather(*asked, return_exceptions=True)
                for answer in answers:
                    if isinstance(answer, Observation):
                        seen.append(answer)
                    elif not isinstance(answer, BudgetSpentError):
                        raise answer
                if any(isinstance(answer, BudgetSpentError) for answer in answers):
                    return seen
                lost = sum(observation.reply is Reply.DEAD for observation in seen)
                if lost > self.rounds or any(o.reply not in (Reply.ALLOW, Reply.DEAD) for o in seen):
                    return seen
        return seen

    async def _one(self, wire: Wire, number: str, together: int) -> Observation:
        body = wire.chat(f"Count the waves, {number}.", max_tokens=self.tokens, stream=True)
        alone = together == 1
        return await wire.post(
            body, "alone" if alone else "loaded", tokens=self.tokens, most_events=self.tokens + 8, patient=alone
        )
