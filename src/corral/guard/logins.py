"""Failed attempts to get in, limited by address: guessing keys must cost the guesser, not the guard.

An address has a quota of wrong keys. Once it is spent, keys are refused unheard until the quota lets one more be tried.
An address that presses on all the same, as often as its quota once more, is refused for a minute, and for twice as long
each time that it does not stop (see `Penalties`).
"""

# ruff: noqa: SLF001  # who takes over reads what its predecessor, of the same class, keeps

from collections import OrderedDict
from typing import Protocol

from corral.dialects.model import ErrorStyle
from corral.engine import limits_from
from corral.engine.decision import Deny
from corral.engine.penalty import Penalties
from corral.guard.credentials import Credential, Rejection
from corral.guard.refusal import Refusal
from corral.policy.model import LimitRule, Quota
from corral.stores import Binding
from corral.stores.memory import MemoryStore

WRONG_KEY = LimitRule(name="wrong-keys", quota=Quota(10, 60.0), per="address")
STRAY = LimitRule(name="strays", quota=Quota(10, 60.0), per="address")

_REMEMBERED = 10_000


class Judge(Protocol):
    """What judges credentials; see `Authenticator`."""

    def recall(self, presented: bytes, now: float) -> Credential | Rejection | None:
        """Judge by what is known already; None where more would have to be done."""
        ...

    def verify(self, presented: bytes, now: float) -> Credential | Rejection:
        """Judge what `recall` could not."""
        ...

    def claimed_name(self, presented: bytes) -> str | None:
        """Name whom a token claims to be of, believing nothing."""
        ...


class Logins:
    """Checks credentials, and counts failures by address.

    Once an address has failed too often its keys are refused unheard, right or wrong, so that guessing on teaches
    nothing. Whoever got in from there before is still let in, with a new token too: an attacker cannot lock out those
    who share its address.
    Requests without any key, and for routes that do not exist, have a count of their own, and lock nobody out.
    """

    def __init__(self, quota: Quota, *, capacity: int = 100_000) -> None:
        wrong = LimitRule(name=WRONG_KEY.name, quota=quota, per="address")
        stray = LimitRule(name=STRAY.name, quota=quota, per="address")
        self._wrong = MemoryStore(limits_from([wrong]), capacity=capacity)
        self._strays = MemoryStore(limits_from([stray]), capacity=capacity)
        self._unheard = MemoryStore(limits_from([wrong]), capacity=capacity)
        self._penalties = Penalties(capacity=min(capacity, _REMEMBERED))
        self._let_in: OrderedDict[tuple[str, str], None] = OrderedDict()

    def adopt(self, before: "Logins", now: float) -> None:
        """Go on with the counts of `before`, and with those that it let in."""
        self._wrong.adopt(before._wrong, now)
        self._strays.adopt(before._strays, now)
        self._unheard.adopt(before._unheard, now)
        self._penalties = before._penalties
        self._let_in = before._let_in

    def check(self, authenticator: Judge, presented: bytes | None, address: str, now: float) -> Credential | Refusal:
        """Judge the credential that was presented, or say why it is refused."""
        if presented is None:
            limited = self.stray(address, now)
            return limited or _refusal(
                "missing_api_key", "No API key was sent: use the header Authorization: Bearer KEY."
            )
        outcome = authenticator.recall(presented, now)
        if type(outcome) is Credential and (address, outcome.name) in self._let_in:
            self._let_in.move_to_end((address, outcome.name))
            return outcome
        who = self._wrong.bind((address,))
        wait = self._wait(who, address, now)
        if wait and (address, authenticator.claimed_name(presented)) not in self._let_in:
            return _refusal("too_many_failed_logins", _TOO_MANY, wait)
        if outcome is None:
            outcome = authenticator.verify(presented, now)
        if type(outcome) is Rejection:
            if outcome.counts:
                self._wrong.take(who, now)
            return _refusal(outcome.kind, outcome.message, outcome.retry_after)
        assert isinstance(outcome, Credential)
        self._let_in[(address, outcome.name)] = None
        if len(self._let_in) > _REMEMBERED:
            self._let_in.popitem(last=False)
        return outcome

    def _wait(self, who: Binding, address: str, now: float) -> float:
        """Say for how long keys from `address` are refused unheard, in seconds; 0 if one is heard now."""
        wait = self._penalties.remaining(address, now)
        if wait:
            return wait
        standing = self._wrong.peek(who, now)[0]
        if standing.remaining > 0:
            return 0.0
        if type(self._unheard.take(self._unheard.bind((address,)), now)) is Deny:
            return self._penalties.give(address, now)
        return max(1.0, standing.window / standing.quota)

    def stray(self, address: str, now: float) -> Refusal | None:
        """Count a request without a key, or for no known route; a refusal once there are too many."""
        decision = self._strays.take(self._strays.bind((address,)), now)
        if type(decision) is Deny:
            return _refusal("too_many_failed_logins", _TOO_MANY, decision.retry_after)
        return None


_TOO_MANY = "Too many failed requests came from this address: without a valid key, or for routes that do not exist."


def _refusal(kind: str, message: str, retry_after: float | None = None) -> Refusal:
    return Refusal(kind, message, ErrorStyle.OPENAI, "unknown", None, retry_after)
