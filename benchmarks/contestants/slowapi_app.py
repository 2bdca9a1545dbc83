"""The application that `slowapi.py` starts: PORT UPSTREAM LIMIT CLIENT.

The limiter is used as its documentation shows: a decorator on the route, its own handler for refusals.
"""

import contextlib
import importlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address

PORT, UPSTREAM, LIMIT, CLIENT = sys.argv[1:5]

http = importlib.import_module(CLIENT)

limiter = Limiter(key_func=get_remote_address)


def _client() -> Any:
    limits = http.Limits(max_connections=128, max_keepalive_connections=128)
    if UPSTREAM.startswith("unix:"):
        transport = http.AsyncHTTPTransport(uds=UPSTREAM.removeprefix("unix:"), limits=limits)
        return http.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)
    return http.AsyncClient(base_url=UPSTREAM, limits=limits, timeout=60)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with _client() as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]  # slowapi's typing


@app.post("/v1/chat/completions")
@limiter.limit(LIMIT)
async def chat(request: Request) -> Response:
    body = await request.body()
    client = request.app.state.client
    headers = {"content-type": "application/json"}
    if b'"stream":true' not in body:
        answer = await client.post("/v1/chat/completions", content=body, headers=headers)
        return Response(answer.content, answer.status_code, media_type=answer.headers["content-type"])
    asked = client.build_request("POST", "/v1/chat/completions", content=body, headers=headers)
    stream = await client.send(asked, stream=True)

    async def relay() -> AsyncIterator[bytes]:
        try:
            async for piece in stream.aiter_raw():
                yield piece
        finally:
            await stream.aclose()

    return StreamingResponse(relay(), stream.status_code, media_type="text/event-stream")


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(PORT), loop="uvloop", http="httptools", log_level="warning", access_log=False
    )
