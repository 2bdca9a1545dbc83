"""Asking a guard's admin API, and saying in words why there is no answer."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2

from corral.errors import CorralError, UsageError

DEFAULT = "127.0.0.1:9464"
_TIMEOUT = 5.0  # seconds for one answer
_LONGEST_DETAIL = 1000  # characters
_PARTS = ("status", "clients", "requests", "queue", "upstreams")


class AdminAwayError(CorralError):
    """The admin API cannot be reached, or is not what answers there."""

    exit_code = 3


class KeyRefusedError(CorralError):
    """The admin API does not let this key in."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a guard said of itself `at` a time (seconds, of a clock that only runs forward), by the API's own names."""

    at: float
    status: dict[str, Any]
    clients: dict[str, Any]
    requests: dict[str, Any]
    queue: dict[str, Any]
    upstreams: dict[str, Any]


class AdminClient:
    """Asks the admin API at `address`, as "127.0.0.1:9464" or a URL, with `key`.

    Raises:
        UsageError: the address cannot be one.

    """

    def __init__(self, address: str, key: str) -> None:
        self.url = _url(address)
        if not (key.isascii() and key.isprintable()):
            raise UsageError("The admin key has characters that no key has; look whether the right one is given.")
        headers = {"Authorization": f"Bearer {key}"}
        self._client = httpx2.Client(base_url=self.url, headers=headers, timeout=_TIMEOUT, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def look(self, most: int) -> Snapshot:
        """Ask for everything, with `most` entries of each list at most.

        Raises:
            AdminAwayError: nothing answers, or no admin API does.
            KeyRefusedError: the key is not let in.

        """
        found = {
            part: self._get(f"/{part}", {} if part in ("status", "upstreams") else {"most": most}) for part in _PARTS
        }
        return Snapshot(time.monotonic(), **found)

    def _get(self, path: str, parameters: dict[str, int]) -> dict[str, Any]:
        try:
            answer = self._client.get(path, params=parameters)
        except httpx2.ConnectError:
            raise AdminAwayError(
                f"Nothing listens at {self.url}. Start the guard with --admin {DEFAULT}, or write into its policy:\n\n"
                f'    [admin]\n    listen = "{DEFAULT}"\n'
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            said = str(error) or type(error).__name__
            raise AdminAwayError(f"There is no answer from {self.url}: {said}.") from None
        detail = _detail(answer)
        if answer.status_code in (401, 403, 429):
            raise KeyRefusedError(f"{self.url} does not let this in: {detail or answer.status_code}")
        value = _json(answer)
        if answer.status_code != 200 or not isinstance(value, dict):
            raise AdminAwayError(
                f"What answers at {self.url} is no admin API of a guard ({answer.status_code} to {path}). "
                "Name the address that [admin] listen has, not the one that clients use."
            )
        return value


def _url(address: str) -> str:
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        fine = parts.scheme in ("http", "https") and parts.hostname and (parts.port or "://" in address)
    except ValueError:
        fine = False
    if not fine or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UsageError(f"{address!r} is no address of an admin API: write a host and a port, as {DEFAULT}.")
    if "@" in parts.netloc:
        raise UsageError(
            "The address has a name or a password in it: a key is given by CORRAL_ADMIN_KEY or --key-file."
        )
    return f"{parts.scheme}://{parts.netloc}"


def _json(answer: httpx2.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _detail(answer: httpx2.Response) -> str:
    """Read why it refuses; who answers may be anybody, so nothing passes that would steer a terminal."""
    value = _json(answer)
    detail = str(value.get("detail", "")) if isinstance(value, dict) else ""
    return "".join(char if char.isprintable() else "�" for char in detail)[:_LONGEST_DETAIL]
