"""A text generation service that one client cannot take away from all others.

    CORRAL_API_KEY=choose-a-key LLAMA_URL=http://127.0.0.1:8081 uvicorn fastapi_app:app

The guard around it asks for keys, counts requests, bounds bodies and prompts, and lets five generations run at once.
What is left to write here is the service.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

import corral


class Llama:
    """The inference server that does the work."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def complete(self, asked: dict) -> dict:
        """Generate a whole answer."""
        try:
            answer = await self._client.post("/completion", json=asked)
            answer.raise_for_status()
        except httpx2.HTTPError as error:
            raise HTTPException(502, "The model does not answer.") from error
        return answer.json()

    async def stream(self, asked: dict) -> AsyncIterator[bytes]:
        """Generate an answer event by event. A client that leaves ends this at once, and the server's work with it."""
        async with self._client.stream("POST", "/completion", json=asked) as answer:
            async for piece in answer.aiter_bytes():
                yield piece


@asynccontextmanager
async def lifespan(service: FastAPI) -> AsyncIterator[None]:
    """Keep the connections to the server open while the service runs."""
    url = os.environ.get("LLAMA_URL", "http://127.0.0.1:8081")
    async with httpx2.AsyncClient(base_url=url, timeout=300.0) as client:
        service.state.llama = Llama(client)
        yield


service = FastAPI(lifespan=lifespan)


class Completion(BaseModel):
    """What a client asks for. The guard has checked the prompt, and clamped `n_predict`: it is always there."""

    prompt: str
    n_predict: int
    temperature: float = Field(0.7, ge=0, le=2)
    stream: bool = False


@service.post("/completion")
async def completion(asked: Completion) -> object:
    """Generate text: as a whole, or as a stream of events."""
    llama: Llama = service.state.llama
    if asked.stream:
        return StreamingResponse(llama.stream(asked.model_dump()), media_type="text/event-stream")
    return await llama.complete(asked.model_dump())


class Report(BaseModel):
    """What a client thinks of an answer."""

    text: str = Field(max_length=2000)


@service.post("/report")
@corral.limit("3/minute")
def report(what: Report) -> dict:
    """Take a complaint. Not a route of the model's: it has a limit of its own, beside those of the policy."""
    return {"received": len(what.text)}


# The guard goes around the whole service, so a wrong policy is an error here, before anybody is served.
app = corral.Guard(service, policy=Path(__file__).with_name("corral.toml"))
