"""The scanner's one way to the target: bounded in time and bytes, within the budget, and it stops when asked to."""

import asyncio
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from time import perf_counter
from typing import Any

import httpx2
import orjson

from corral import __version__
from corral.scan.budget import Budget
from corral.scan.failure import CLOSED, in_words
from corral.scan.observation import Observation
from corral.scan.patience import Patience
from corral.scan.target import Target

_MOST_BYTES = 64 * 1024
_MOST_STREAM = 8 * 1024 * 1024
_AT_ONCE = 16
_EARLY = 1.0
"""Seconds that an answer may take to come before the last piece of a body is sent."""

_SLACK = 16
"""Events beyond a declared limit that are still read: a stream has some that bring no token."""


class SufferingError(Exception):
    """The target suffers; nothing more is sent."""


class Wire:
    """Sends requests to one target, and returns what was seen; it raises for the budget and for a suffering target."""

    def __init__(
        self, target: Target, budget: Budget, *, key: str | None, headers: Mapping[str, str], timeout: float
    ) -> None:
        self.target = target
        self.budget = budget
        self.key = key
        self.path = "/v1/chat/completions"
        self.model: str | None = None
        self.patience = Patience(lambda: budget.seconds_left)
        self._timeout = timeout
        self._dead = 0
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._client = httpx2.AsyncClient(
            headers={"User-Agent": f"corral-scan/{__version__}", "Accept-Encoding": "identity", **headers},
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            limits=httpx2.Limits(max_connections=_AT_ONCE),
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    def chat(self, text: str, **more: Any) -> dict[str, Any]:
        """Build a chat request; a field given as None is left out."""
        body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "cache_prompt": False, **more}
        if self.model:
            body["model"] = self.model
        return {name: value for name, value in body.items() if value is not None}

    async def get(self, path: str, *, authorised: bool = False) -> Observation:
        """Fetch a path, without the key unless `authorised`."""
        return await self.patience.until_heard(
            lambda: self._send("GET", path, None, f"GET {path}", authorised=authorised, tokens=0, most_events=None)
        )

    async def post(
        self,
        body: Mapping[str, Any] | bytes,
        sent: str,
        *,
        path: str | None = None,
        authorised: bool = True,
        tokens: int = 1,
        most_events: int | None = None,
        timeout: float | None = None,
        patient: bool = True,
    ) -> Observation:
        """Post a body to the inference route. `most_events` reads it as a stream, of that many events at most.

        What is refused for its number is sent again once the refusal says so, unless it is not `patient`.
        """
        data = body if isinstance(body, bytes) else _encode(body)

        async def send() -> Observation:
            return await self._send(
                "POST", path or self.path, data, sent,
                authorised=authorised, tokens=tokens, most_events=most_events, timeout=timeout,
            )  # fmt: skip

        return await self.patience.until_heard(send) if patient else await send()

    async def _send(
        self,
        method: str,
        path: str,
        data: bytes | None,
        sent: str,
        *,
        authorised: bool,
        tokens: int,
        most_events: int | None,
        timeout: float | None = None,
    ) -> Observation:
        headers = {"Content-Type": "application/json"} if data is not None else {}
        if authorised and self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        async with self._places:
            self.budget.reserve(tokens)
            began = perf_counter()
            try:
                async with asyncio.timeout(min(timeout or self._timeout, self.budget.seconds_left)):
                    seen = await self._exchange(method, path, data, headers, sent, began, most_events, timeout)
            except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, OSError, ValueError) as error:
                connected = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
                seen = Observation(
                    sent, None, seconds=perf_counter() - began, error=in_words(error), ended=False, connected=connected
                )
        self._watch(seen)
        if tokens and seen.status is not None and (seen.status >= 400 or most_events is not None):
            self.budget.refund(tokens - min(tokens, seen.events))
        return seen

    async def _exchange(  # private, and called in one place
        self,
        method: str,
        path: str,
        data: bytes | None,
        headers: dict[str, str],
        sent: str,
        began: float,
        most_events: int | None,
        timeout: float | None,
    ) -> Observation:
        async with self._client.stream(method, f"{self.target.url}{path}", content=data, headers=headers) as answer:
            received: list[bytes] = []
            size = events = 0
            first = 0.0
            ended = True
            most = _MOST_BYTES if most_events is None else _MOST_STREAM
            limit = _declared_limit(answer.headers) if most_events is not None else None
            stop_at = limit + _SLACK if limit is not None else most_events
            until = began + (timeout or self._timeout) - 0.2
            async for part in answer.aiter_raw(8192):
                first = first or perf_counter() - began
                size += len(part)
                if size <= _MOST_BYTES:
                    received.append(part)
                if most_events is not None:
                    events += part.count(b'data: {"')
                    if stop_at is not None and (events > stop_at or perf_counter() > until):
                        ended = False
                        break
                if size > most:
                    ended = False
                    break
            return Observation(
                sent,
                answer.status_code,
                {name.lower(): value for name, value in answer.headers.items()},
                b"".join(received).decode("utf-8", "replace"),
                first or perf_counter() - began,
                perf_counter() - began,
                events,
                ended,
            )

    async def raw(self, pieces: list[bytes], sent: str, *, timeout: float = 10.0) -> Observation:
        """Send raw bytes piece by piece on a connection of their own, stopping as soon as an answer comes."""
        return await self.patience.until_heard(lambda: self._send_raw(pieces, sent, timeout))

    async def _send_raw(self, pieces: list[bytes], sent: str, timeout: float) -> Observation:
        async with self._places:
            self.budget.reserve()
            began = perf_counter()
            try:
                async with asyncio.timeout(min(timeout, self.budget.seconds_left)):
                    return await self._raw(pieces, sent, began)
            except (OSError, TimeoutError) as error:
                return Observation(
                    sent, None, seconds=perf_counter() - began, error=in_words(error), early=True, ended=False
                )

    async def _raw(self, pieces: list[bytes], sent: str, began: float) -> Observation:
        context = ssl.create_default_context() if self.target.tls else None
        reader, writer = await asyncio.open_connection(self.target.host, self.target.port, ssl=context)
        answer = asyncio.ensure_future(reader.read(4096))  # noqa: TID251  # awaited or cancelled below
        early = False
        try:
            for left, piece in zip(range(len(pieces) - 1, -1, -1), pieces, strict=True):
                if not left:  # whoever reads the body to its end cannot answer before this one
                    await asyncio.wait({answer}, timeout=_EARLY)
                    if answer.done():
                        early = True
                        break
                writer.write(piece)
                await asyncio.wait({answer, asyncio.ensure_future(writer.drain())}, return_when="FIRST_COMPLETED")  # noqa: TID251  # as above
                await asyncio.sleep(0)
                if answer.done():
                    early = True
                    break
            data = await answer
        finally:
            answer.cancel()
            writer.transport.abort()
            with suppress(Exception):
                await writer.wait_closed()
        head, _, body = data.decode("latin-1").partition("\r\n\r\n")
        words = head.split(" ", 2)
        status = int(words[1]) if len(words) > 1 and re.fullmatch("[0-9]{3}", words[1]) else None
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        return Observation(
            sent, status, fields, body, seconds=perf_counter() - began, early=early or status is None,
            error="" if status else CLOSED,
        )  # fmt: skip

    def _watch(self, seen: Observation) -> None:
        """Stop at once when the target no longer answers."""
        self._dead = self._dead + 1 if seen.status is None and not seen.connected else 0
        if self._dead >= 3:
            raise SufferingError("it no longer accepts connections")


def _encode(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # an integer beyond 64 bits
        import json  # noqa: PLC0415  # only for such

        return json.dumps(body).encode()


def _declared_limit(headers: Mapping[str, str]) -> int | None:
    declared = headers.get("x-corral-max-tokens", "")
    return int(declared) if re.fullmatch("[0-9]{1,4}", declared) and int(declared) <= 4096 else None
