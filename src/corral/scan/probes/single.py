"""Single requests, one after the other."""

from dataclasses import dataclass
from typing import Any

from corral.scan.budget import BudgetSpentError
from corral.scan.observation import Observation, Reply
from corral.scan.wire import Wire


@dataclass(frozen=True, slots=True)
class Look:
    """Fetch paths without a key."""

    paths: tuple[str, ...]
    phase: int = 0
    inside: bool = False

    async def send(self, wire: Wire) -> list[Observation]:
        """Fetch each path."""
        return [await wire.get(path) for path in self.paths]


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask for one token; `authorised` with the key, if there is one."""

    text: str = "Say one word."
    authorised: bool = True
    routes: tuple[str, ...] = ()
    phase: int = 1

    @property
    def inside(self) -> bool:
        """Only what is asked without the key, though there is one, is about the door."""
        return self.authorised

    async def send(self, wire: Wire) -> list[Observation]:
        """Ask once on each route (on the usual one if none is named)."""
        seen: list[Observation] = []
        for route in self.routes or (wire.path,):
            native = route in ("/completion", "/completions")
            body: dict[str, Any] = (
                {"prompt": self.text, "n_predict": 1} if native else wire.chat(self.text, max_tokens=1)
            )
            key = "with the key" if self.authorised and wire.key else "without a key"
            shown = f"“{self.text}”" if self.text else "an empty prompt"
            sent = f"POST {route}: {shown}, 1 token, {key}"
            try:
                seen.append(await wire.post(body, sent, path=route, authorised=self.authorised))
            except BudgetSpentError:
                break
        return seen


@dataclass(frozen=True, slots=True)
class Bodies:
    """Post bodies as they are, each with what it is called."""

    bodies: tuple[tuple[str, bytes], ...]
    phase: int = 1
    inside: bool = False

    async def send(self, wire: Wire) -> list[Observation]:
        """Post each body, until one is turned away for want of a key: then none is looked at."""
        seen: list[Observation] = []
        for name, data in self.bodies:
            seen.append(await wire.post(data, f"POST {wire.path}: {name}", timeout=5.0))
            if seen[-1].reply is Reply.AUTH:
                break
        return seen


@dataclass(frozen=True, slots=True)
class Generate:
    """Ask for streams of so many tokens (None leaves the maximum out), and stop reading after `most` or `seconds`.

    Where the answer declares a limit of its own (up to 4,096 tokens), reading goes on to one token more than that. The
    first stream that passes `most` tokens proves what is to be proved, and the rest are not asked for.
    """

    maxima: tuple[int | None, ...]
    most: int = 300
    seconds: float = 5.0
    phase: int = 1
    inside: bool = True

    async def send(self, wire: Wire) -> list[Observation]:
        """Ask for each stream in turn."""
        seen = []
        for number, maximum in enumerate(self.maxima):
            body = wire.chat(f"Tell me a long story, number {number}.", max_tokens=maximum, stream=True)
            said = "no max_tokens" if maximum is None else f"max_tokens {maximum}"
            try:
                seen.append(
                    await wire.post(
                        body, f"POST {wire.path}: a stream, {said}", tokens=self.most + 1, most_events=self.most,
                        timeout=2 * self.seconds,
                    )
                )  # fmt: skip
            except BudgetSpentError:
                break
            if not seen[-1].ended and seen[-1].events > self.most and "x-corral-max-tokens" not in seen[-1].headers:
                break
        return seen


@dataclass(frozen=True, slots=True)
class Oversize:
    """Send bodies of `size` bytes that are no JSON: with their length, and chunked without it."""

    size: int
    phase: int = 1
    inside: bool = False

    async def send(self, wire: Wire) -> list[Observation]:
        """Send each, a piece at a time, until an answer comes; the second only if the first got past the door."""
        credential = f"Authorization: Bearer {wire.key}\r\n" if wire.key else ""
        head = (
            f"POST {wire.path} HTTP/1.1\r\nHost: {wire.target.authority}\r\nUser-Agent: corral-scan\r\n{credential}"
            "Content-Type: application/json\r\nConnection: close\r\n"
        )
        piece = b" " * 65536
        count = self.size // len(piece)
        with_length = [f"{head}Content-Length: {self.size}\r\n\r\n".encode(), *[piece] * count]
        chunk = b"10000\r\n" + piece + b"\r\n"
        chunked = [f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), *[chunk] * count, b"0\r\n\r\n"]
        size = f"{self.size // 2**20} MiB"
        seen = [await wire.raw(with_length, f"POST {wire.path}: {size} with Content-Length")]
        if seen[0].reply is not Reply.AUTH or not seen[0].early:
            seen.append(await wire.raw(chunked, f"POST {wire.path}: {size} chunked"))
        return seen
