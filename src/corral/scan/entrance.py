"""Before all checks: whether there is an inference endpoint, and whether a plain request is let in and served.

What a check sees means something only beside this. Where the same request without anything odd about it is refused
too, a refusal proves nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from corral.errors import TargetError
from corral.scan.budget import BudgetSpentError
from corral.scan.checks.auth_missing import MissingAuthentication
from corral.scan.fingerprint import Fingerprint, fingerprint
from corral.scan.observation import Observation, Reply
from corral.scan.probes.single import Ask
from corral.scan.wire import SufferingError, Wire

STRANGERS = MissingAuthentication.probe
"""What is asked of each inference route without a key."""

_ABSENT = (404, 405, 410, 501)
_BODY_SHOWN = 160


@dataclass(frozen=True, slots=True)
class Entrance:
    """How the target received the scan.

    `asked` is what a plain request on each inference route brought; `shut` the refusal, where a scan without a key is
    let in nowhere; `unserved` says why nothing can be learned of what is behind the door, or is "".
    """

    found: Fingerprint
    asked: tuple[Observation, ...]
    shut: Observation | None
    unserved: str


async def enter(wire: Wire, model: str | None) -> Entrance:
    """Look at the target and ask it for one token, with the key if there is one. Sets `wire.model`.

    Raises:
        TargetError: it does not answer, is no inference endpoint, or refuses the key.

    """
    url = wire.target.url
    try:
        health = await wire.get("/health")
        if health.status is None:
            raise TargetError(f"{url} does not answer: {health.error or 'connection closed'}.")
        found = await fingerprint(wire, health)
        wire.model = model or found.model
        asked = await (Ask(routes=STRANGERS.routes) if wire.key else STRANGERS).send(wire)
    except (SufferingError, BudgetSpentError) as error:
        raise TargetError(f"{url} could not be looked at: {error or 'the budget is too small'}.") from error
    if found.name == "unknown" and found.model is None and asked and not any(_speaks(answer) for answer in asked):
        raise TargetError(_no_endpoint(url, asked))
    first = asked[0] if asked else None
    if wire.key and first is not None and first.reply is Reply.AUTH:
        raise TargetError(
            f"{url} refuses the key: {first.told()}. Check it; a scan without --key takes an outsider's view."
        )
    shut = first if first is not None and first.reply is Reply.AUTH else None
    return Entrance(found, tuple(asked), shut, _unserved(first, wire))


def _speaks(answer: Observation) -> bool:
    """Tell whether an inference route may be there: any answer but "not here", a redirect, or a page."""
    if answer.reply is Reply.ALLOW:
        kind = answer.headers.get("content-type", "")
        return "json" in kind or "event-stream" in kind or answer.body.lstrip().startswith(("{", "data:"))
    return answer.status is None or not (answer.status in _ABSENT or answer.status < 400)


def _no_endpoint(url: str, asked: Sequence[Observation]) -> str:
    seen = ", ".join(f"POST {route} → {answer.status}" for route, answer in zip(STRANGERS.routes, asked, strict=False))
    moved = next((answer.headers["location"] for answer in asked if "location" in answer.headers), "")
    hint = f" It redirects to {moved}: scan that address." if moved else " Check the address and the port."
    return f"{url} is no inference endpoint that Corral knows ({seen}).{hint}"


def _unserved(first: Observation | None, wire: Wire) -> str:
    if first is None:
        return "stopped, because the budget was spent before a first request was made"
    if first.reply in (Reply.ALLOW, Reply.AUTH):
        return ""
    if first.reply is Reply.DENY:
        return f"stopped, because the target is busy or throttles this scan: {first.told()}"
    said = " ".join(first.body.split())[:_BODY_SHOWN]
    model = " Name a model that it has with --model." if "model" in said and wire.model is None else ""
    return f"stopped, because even a plain request is not served: {first.told()}{f' {said}' if said else ''}{model}"
