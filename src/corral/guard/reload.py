"""Reading the policy anew while the guard runs: when asked to, and when one of its files has changed.

A reload takes effect whole or not at all. A policy that cannot be used changes nothing: it is said why, and counted.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from corral.errors import CorralError, PolicyError
from corral.guard.file_watch import FileWatch
from corral.guard.metrics import Metrics
from corral.policy.changes import RestartError, changed
from corral.policy.model import Policy

_log = logging.getLogger("corral.guard")

LOOK = 1.0
"""Seconds between two looks at the files."""

Say = Callable[[str], None]

_NOTHING = (
    "There is nothing to reload: this guard was started without a policy file. "
    "Start it with --policy FILE to change its policy while it runs."
)

_FAILED = "failed inside the guard; its log says why."


@dataclass(frozen=True, slots=True)
class Voice:
    """Who is told: `say` what happens, `complain` what went wrong without ending anything."""

    say: Say
    complain: Say


def _nothing(_before: Policy) -> Policy:
    raise PolicyError(_NOTHING)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a policy comes from: how it is read again, and the files that are read then.

    `read` is given the policy in force and answers the new one, with `auth` resolved. It may block, and is called in a
    thread of its own; it raises CorralError where the new policy cannot be used. `name` is what people call the origin.
    """

    read: Callable[[Policy], Policy] = _nothing
    files: tuple[Path, ...] = ()
    name: str = "the policy"

    def adjusted(self, adjust: Callable[[Policy], Policy]) -> "Origin":
        """Answer the same origin, with every policy that is read changed by `adjust`."""
        read = self.read
        return replace(self, read=lambda before: adjust(read(before)))


NOWHERE = Origin()
"""The origin of a policy that stands in no file."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reload went: what `changed`, by the settings' names, or the `error` for which nothing has."""

    changed: tuple[str, ...] = ()
    error: str = ""


class Reloader:
    """Reloads the policy of one guard. `apply` takes a policy whole, or raises CorralError and takes nothing."""

    def __init__(
        self, origin: Origin, policy: Policy, apply: Callable[[Policy], Awaitable[None]], voice: Voice
    ) -> None:
        self._origin = origin
        self._policy = policy
        self._apply = apply
        self._voice = voice
        self._turn = asyncio.Lock()
        self._counts = Counter({"applied": 0, "invalid": 0, "restart": 0})
        self._stale = False
        self._watch = FileWatch(_files(origin, policy))

    def register(self, metrics: Metrics) -> None:
        """Show how often the policy was reloaded, or why not, and whether the one in force is not the one written."""
        metrics.counters(
            "corral_reloads",
            "Reloads of the policy: applied, or refused for what is invalid or takes a restart.",
            "outcome",
            lambda: self._counts,
        )
        metrics.gauge(
            "corral_policy_stale", "1 while the latest reload was refused, so that an older policy is in force.",
            lambda: float(self._stale),
        )  # fmt: skip

    async def follow(self, asked: asyncio.Event) -> None:
        """Reload whenever `asked` is set or a file has changed; for ever, until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK):
                    await asked.wait()
            except TimeoutError:
                if not self._watch.changed():
                    continue
            asked.clear()
            await self.reload()

    async def reload(self) -> Outcome:
        """Read the policy anew and apply it, or say why that cannot be. Reloads wait for one another."""
        async with self._turn:
            if not self._watch.paths:
                self._voice.complain(_NOTHING)
                return Outcome(error=_NOTHING)
            self._watch.accept()
            try:
                policy = await asyncio.to_thread(self._origin.read, self._policy)
                await self._apply(policy)
            except CorralError as error:
                self._counts["restart" if isinstance(error, RestartError) else "invalid"] += 1
                self._stale = True
                self._voice.complain(f"The policy stays as it was, since {self._origin.name} cannot be used: {error}")
                return Outcome(error=str(error))
            except Exception:  # noqa: BLE001  # whatever it is, the next change of the file must still be followed
                _log.exception("A reload failed inside the guard")
                self._counts["invalid"] += 1
                self._stale = True
                self._voice.complain(f"The policy stays as it was, since reading {self._origin.name} {_FAILED}")
                return Outcome(error=f"Reading {self._origin.name} {_FAILED}")
            names = changed(self._policy, policy)
            self._policy = policy
            self._counts["applied"] += 1
            self._stale = False
            files = _files(self._origin, policy)
            if files != self._watch.paths:
                self._watch = FileWatch(files)
            self._voice.say(f"Reloaded {self._origin.name}: {_told(names)}.")
            return Outcome(changed=names)


def _told(names: tuple[str, ...]) -> str:
    return f"{', '.join(names)} changed" if names else "no setting has changed"


def _files(origin: Origin, policy: Policy) -> tuple[Path, ...]:
    """List what a reload reads: a renewed certificate, or a secret in a file, is taken up like a new policy."""
    listen, jwt = policy.listen, policy.jwt
    named = (listen.tls_certificate, listen.tls_key, jwt.secret_file, jwt.public_key)
    return (*origin.files, *(Path(name) for name in named if name is not None))
