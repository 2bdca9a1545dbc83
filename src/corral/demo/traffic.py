"""An honest client and a flood, side by side on loopback: what the one feels of the other."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import httpx2

_HONEST_TOKENS = 16
_FLOOD_TOKENS = 128
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Latency:
    """What an honest client met: requests sent and answered, and how long the answers took, in milliseconds.

    A request that was not answered counts with the time it was waited for: giving up is no good service.
    """

    sent: int
    answered: int
    p50_ms: float
    p95_ms: float

    @classmethod
    def of(cls, times: Sequence[float], answered: int) -> "Latency":
        """Summarise `times`, in seconds, by the nearest-rank method."""
        ordered = sorted(times)

        def rank(share: float) -> float:
            if not ordered:
                return math.nan
            return round(1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)], 1)

        return cls(len(ordered), answered, rank(0.5), rank(0.95))


@dataclass(frozen=True, slots=True)
class Flood:
    """One abuser: a loopback address to come from, a key or none, and how many requests it keeps under way."""

    address: str
    key: str | None
    connections: int


def _body(tokens: int, prompt: str, number: int) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": f"{prompt} {number}"}],
        "max_tokens": tokens,
        "cache_prompt": False,
    }


def _client(address: str, key: str | None, connections: int) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx2.AsyncClient(
        transport=httpx2.AsyncHTTPTransport(
            local_address=address,
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        ),
        headers=headers,
        timeout=_PATIENCE,
        trust_env=False,
    )


async def _honest(url: str, key: str | None, *, requests: int, pause: float) -> Latency:
    times, answered = [], 0
    async with _client("127.0.0.1", key, 1) as client:
        for number in range(requests):
            begin = perf_counter()
            try:
                answer = await client.post(
                    f"{url}/v1/chat/completions", json=_body(_HONEST_TOKENS, "Tell me of the sea.", number)
                )
                answered += answer.status_code == 200
            except httpx2.HTTPError:
                pass
            times.append(perf_counter() - begin)
            await asyncio.sleep(pause)
    return Latency.of(times, answered)


async def _abuse(url: str, client: httpx2.AsyncClient) -> None:
    number = 0
    while True:
        number += 1
        try:
            await client.post(f"{url}/v1/chat/completions", json=_body(_FLOOD_TOKENS, "More, more, more.", number))
        except httpx2.HTTPError:
            await asyncio.sleep(0.05)


async def honest_beside_flood(
    url: str, key: str | None, floods: Sequence[Flood], *, requests: int = 8, pause: float = 0.2
) -> Latency:
    """Let an honest client make `requests` requests, `pause` seconds apart, while `floods` never stop asking.

    The flood ends with the honest client's last answer; each of its requests is cancelled then.
    """
    clients = [_client(flood.address, flood.key, flood.connections) for flood in floods]
    abusers: list[asyncio.Task[None]] = []
    try:
        async with asyncio.TaskGroup() as group:
            for flood, client in zip(floods, clients, strict=True):
                abusers += [group.create_task(_abuse(url, client)) for _ in range(flood.connections)]
            await asyncio.sleep(1.0)  # let the flood fill the server before the honest client comes
            latency = await _honest(url, key, requests=requests, pause=pause)
            for abuser in abusers:
                abuser.cancel()
    finally:
        for client in clients:
            await client.aclose()
    return latency
