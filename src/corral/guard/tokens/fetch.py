"""Fetching an issuer's keys, beside the traffic: bounded in time and size, and only from where the policy says."""

import asyncio
import logging

import httpx2

from corral.guard.tokens.issuer_keys import IssuerKeys
from corral.guard.tokens.keys import published_keys
from corral.policy.model import Jwt

_log = logging.getLogger("corral.guard")

_TIMEOUT = 10.0
_LARGEST = 256 * 1024


class KeyFetcher:
    """Keeps `keys` fresh from `jwt.jwks_url`. Lives on one loop; `tick` it a few times a second, `close` it once.

    Redirects are not followed: where the keys come from is the policy's decision. Proxies of the environment are used
    for https alone.
    """

    def __init__(self, jwt: Jwt, keys: IssuerKeys, loop: asyncio.AbstractEventLoop) -> None:
        self._url = str(jwt.jwks_url)
        self._algorithms = jwt.algorithms
        self._keys = keys
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._said = ""
        # One client for good: making one reads the system's certificates, which takes 20 ms of the gateway's loop.
        self._client = httpx2.AsyncClient(
            timeout=_TIMEOUT, follow_redirects=False, trust_env=self._url.startswith("https:")
        )

    def tick(self, now: float) -> None:
        """Begin a fetch if one is due. Never raises."""
        if self._task is None and self._keys.is_due(now):
            self._keys.began()
            self._task = self._loop.create_task(self._fetch())

    async def close(self) -> None:
        """Give up what is under way, and let go of the connection."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._client.aclose()

    async def _fetch(self) -> None:
        trouble = "the fetch broke off"
        try:
            async with asyncio.timeout(_TIMEOUT):
                raw = await self._read()
            keys = published_keys(raw, self._algorithms)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, TimeoutError, ValueError) as error:
            trouble = str(error) or type(error).__name__
        except asyncio.CancelledError:
            trouble = ""  # the guard is ending
            raise
        else:
            trouble = ""
            self._keys.fetched(keys, raw, self._loop.time())
        finally:
            if trouble:
                self._keys.failed(self._loop.time())
            self._say(trouble)
            self._task = None

    async def _read(self) -> bytes:
        # Uncompressed, so that what is small on the wire is small in memory.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with self._client.stream("GET", self._url, headers=headers) as answer:
            if answer.status_code != 200:
                raise ValueError(f"it answered with status {answer.status_code}")
            raw = bytearray()
            async for piece in answer.aiter_raw():
                raw += piece
                if len(raw) > _LARGEST:
                    raise ValueError(f"it is larger than {_LARGEST} bytes")
            return bytes(raw)

    def _say(self, trouble: str) -> None:
        """Log trouble when it begins and when it ends."""
        if trouble and not self._said:
            stand = "Those fetched before stay in use." if self._keys.ready else "No token is let in until they are."
            _log.error("The issuer's keys at %s could not be fetched: %s. %s", self._url, trouble, stand)
        elif self._said and not trouble:
            _log.warning("The issuer's keys at %s could be fetched again.", self._url)
        self._said = trouble
