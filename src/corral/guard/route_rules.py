"""Which routes are open, and to whom; what is refused because of where it asks, not of what."""

import re

from corral.dialects.model import Dialect, ErrorStyle, Route, RouteClass
from corral.guard.caller import Caller, Head
from corral.guard.credentials import KEY_IN_URL
from corral.guard.logins import Logins
from corral.guard.refusal import Refusal
from corral.policy.model import Routes

# Enum members are looked up once: in CPython 3.11 an access through the class takes 0.9 µs, a global 0.02 µs.
_STATE = RouteClass.STATE
_OPENAI = ErrorStyle.OPENAI

_LOCAL = re.compile(rb"(localhost|[0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?", re.IGNORECASE)
"""A host that is an address or localhost, and nothing around it but a port (RFC 9110, section 7.2)."""


class RouteRules:
    """Refuses what is not there or not open. `check_host` as for `Pipeline`."""

    def __init__(self, routes: Routes, dialect: Dialect, logins: Logins, *, check_host: bool) -> None:
        self._routes = routes
        self._dialect = dialect
        self._logins = logins
        self._check_host = check_host

    def stray(self, path: bytes, head: Head, caller: Caller, now: float) -> Refusal:
        """Refuse a request for what is not there. Strays are counted like missing keys: scanning is not free."""
        if self._check_host and not host_is_local(head):
            return Refusal(
                "forbidden",
                "This guard asks nobody for a key, so it hears only requests addressed to an IP address or to "
                "localhost. Configure a key to use other names.",
                _OPENAI,
                "unknown",
            )
        limited = self._logins.stray(caller.address, now)
        if limited is not None:
            return limited
        allow = self._dialect.allowed(path)
        if allow:
            return Refusal(
                "method_not_allowed",
                "This route does not take that method.",
                _OPENAI,
                "unknown",
                allow=allow,
            )
        return Refusal("not_found", "There is no such route, or it is not open.", _OPENAI, "unknown")

    def forbidden(self, route: Route, caller: Caller) -> Refusal | None:
        """Say why a route of state or management is closed to a caller; None where it is open."""
        rule = self._routes.state if route.kind is _STATE else self._routes.management
        if rule == "admin" and caller.key is not None and caller.key.admin:
            return None
        message = "This route is closed." if rule == "deny" else "This route needs an admin key."
        return Refusal("forbidden", message, route.errors, route.name)


def key_in_url(route: Route | None) -> Refusal:
    """Refuse a request whose URL carries a key."""
    return Refusal(
        "key_in_url",
        KEY_IN_URL,
        _OPENAI if route is None else route.errors,
        "unknown" if route is None else route.name,
    )


def host_is_local(head: Head) -> bool:
    """Tell whether the Host header names an IP address or localhost, so that no foreign web page can have sent it."""
    host = head.get(b"host")
    if host is None:
        return True  # HTTP/1.0, which no browser speaks
    return _LOCAL.fullmatch(host) is not None
