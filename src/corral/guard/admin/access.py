"""Who may use the admin API: whoever presents an admin key, and no web page.

An admin key is the one whose hash is `[admin] key_sha256`, or one of the policy or the key store that has `admin`.
Without any the API is closed, on every address: what it can do must not depend on who else has an account on the
machine.
"""

import math
from hashlib import sha256
from hmac import compare_digest

from corral.dialects.errors import status_for
from corral.guard.admin.message import Answer, Request, problem
from corral.guard.authenticator import INVALID, Authenticator
from corral.guard.credentials import KEY_IN_URL, Credential, Rejection, key_in_query, presented_key
from corral.guard.logins import Logins
from corral.guard.refusal import Refusal
from corral.guard.route_rules import host_is_local
from corral.policy.model import Policy

CLOSED = (
    "This needs an admin key, and none is configured: set the environment's CORRAL_ADMIN_KEY where the guard is "
    "started, or write [admin] key_sha256, or give a key the right with: corral keys create --name NAME --admin"
)
_MISSING = "This needs an admin key. Send it as the header Authorization: Bearer KEY."
_NO_ADMIN = Rejection("forbidden", "This key is valid, but it is no admin key.", counts=False)


class AdminAccess:
    """Lets requests in, or says why not. Wrong keys are limited by address, as they are for clients.

    `on_loopback` says that only this machine reaches the listener: then it is to be named by an IP address or as
    localhost, since a web page can point a name of its own at it.
    """

    def __init__(self, policy: Policy, *, on_loopback: bool) -> None:
        self._on_loopback = on_loopback
        self._quota = policy.max_failed_logins
        self._logins = Logins(self._quota)

    def refuse(self, request: Request, policy: Policy, authenticator: Authenticator, now: float) -> Answer | None:
        """Say why `request` is refused at `now`, by the policy in force; None where it is let in."""
        host = request.head.get(b"host", b"")
        if self._on_loopback and not host_is_local(request.head):
            return problem(403, "Name this listener by its IP address or as localhost; a web page could use any name.")
        if request.head.get(b"origin") not in (None, b"http://" + host):
            return problem(403, "Pages of another origin may not ask this.")
        if key_in_query(request.query.encode()):
            return problem(400, KEY_IN_URL)
        presented = presented_key(request.head)
        if presented is None and not has_admin(policy):
            return problem(403, CLOSED)
        outcome = self._logins_by(policy, now).check(_AdminKeys(policy, authenticator), presented, request.peer, now)
        if not isinstance(outcome, Refusal):
            return None
        message = _MISSING if outcome.kind == "missing_api_key" else outcome.message
        if outcome.kind == "invalid_api_key" and not has_admin(policy):
            message = CLOSED
        headers = []
        status = status_for(outcome.kind, outcome.style)
        if status == 401:
            headers.append(("WWW-Authenticate", 'Bearer realm="corral admin"'))
        if outcome.retry_after is not None:
            headers.append(("Retry-After", str(max(1, math.ceil(outcome.retry_after)))))
        return problem(status, message, headers)

    def _logins_by(self, policy: Policy, now: float) -> Logins:
        """Follow a reload that has changed how many wrong keys an address may try."""
        if policy.max_failed_logins != self._quota:
            before, self._quota = self._logins, policy.max_failed_logins
            self._logins = Logins(self._quota)
            self._logins.adopt(before, now)
        return self._logins


class _AdminKeys:
    """Judges keys as `Authenticator` does, and lets in admin keys alone."""

    def __init__(self, policy: Policy, authenticator: Authenticator) -> None:
        self._expected = policy.admin.key_sha256
        self._authenticator = authenticator

    def recall(self, presented: bytes, now: float) -> Credential | Rejection | None:
        if self._expected is not None and compare_digest(sha256(presented).hexdigest(), self._expected.lower()):
            return Credential("admin", "admin", None, True, None)
        outcome = self._authenticator.recall(presented, now)
        if isinstance(outcome, Credential) and not outcome.admin:
            return _NO_ADMIN
        return outcome

    def verify(self, _presented: bytes, _now: float) -> Credential | Rejection:
        return INVALID  # tokens are never admin keys

    def claimed_name(self, _presented: bytes) -> None:
        return None


def has_admin(policy: Policy) -> bool:
    """Tell whether there may be an admin key. Whether the key store has one is not told."""
    by_keys = any(key.admin for key in policy.keys)
    return policy.admin.key_sha256 is not None or by_keys or (policy.auth == "keys" and bool(policy.credentials.store))
