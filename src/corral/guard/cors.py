"""Which web pages may use the guard from a browser (CORS, the Fetch standard, section 3.2), by the policy alone.

The guard answers preflights itself: they carry no credential and cost no quota, and the server never sees them. Their
answer is the same for every route, so that it says nothing about what is there. Any header may be sent, since nothing
of a client's head reaches the server.
"""

import re

from corral.dialects.model import ErrorStyle
from corral.guard.caller import Head
from corral.guard.refusal import Refusal
from corral.policy.model import Cors

EXPOSED = (
    "Retry-After, X-Request-Id, X-Corral-Max-Tokens, RateLimit, RateLimit-Policy, X-RateLimit-Limit, "
    "X-RateLimit-Remaining, X-RateLimit-Reset, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    "x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, "
    "anthropic-ratelimit-requests-limit, anthropic-ratelimit-requests-remaining, anthropic-ratelimit-requests-reset, "
    "anthropic-ratelimit-tokens-limit, anthropic-ratelimit-tokens-remaining, anthropic-ratelimit-tokens-reset"
)
"""The headers of answers that pages may read."""

_USUAL = b"Authorization, Content-Type, X-Api-Key"
_NAMES = re.compile(rb"[A-Za-z0-9_, \t-]{1,1024}")
_SHOWN = 100


class CorsRules:
    """Writes what answers tell browsers. One for each guard; the policy's origins are few, and so is what is kept."""

    def __init__(self, cors: Cors) -> None:
        self._any = "*" in cors.origins
        self._max_age = int(cors.max_age)
        self._credentials = b"Access-Control-Allow-Credentials: true\r\n" if cors.credentials else b""
        shared = self._credentials + b"Access-Control-Expose-Headers: %b\r\n" % EXPOSED.encode()
        self._vary = b"" if self._any or not cors.origins else b"Vary: Origin\r\n"
        self._lines = {
            origin: b"Access-Control-Allow-Origin: %b\r\n%b%b" % (origin, self._vary, shared)
            for origin in (text.encode() for text in cors.origins)
        }
        self._for_any = self._lines.get(b"*", self._vary)
        self.is_on = bool(cors.origins)

    def lines(self, origin: bytes | None) -> bytes:
        """Write the header lines of an answer to a request with this `Origin`; those that tell pages nothing else."""
        return self._for_any if origin is None else self._lines.get(origin, self._for_any)

    def preflight(self, head: Head) -> bytes | Refusal:
        """Answer a preflight, from the status to the line before the date; or refuse it, saying why."""
        if head.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in head:
            return Refusal("invalid_request", "A preflight has no body.", ErrorStyle.OPENAI, "preflight")
        origin = head[b"origin"]
        allow = b"*" if self._any else origin
        if allow not in self._lines:
            shown = origin[:_SHOWN].decode("latin-1").encode("ascii", "replace").decode()
            return Refusal(
                "forbidden",
                f"Pages of {shown} may not use this guard: cors.origins in its policy does not list them.",
                ErrorStyle.OPENAI,
                "preflight",
            )
        asked = head.get(b"access-control-request-headers", b"")
        names = asked if _NAMES.fullmatch(asked) else _USUAL
        return (
            b"HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: %b\r\n%b%b"
            b"Access-Control-Allow-Methods: GET, POST\r\nAccess-Control-Allow-Headers: %b\r\n"
            b"Access-Control-Max-Age: %d\r\n" % (allow, self._vary, self._credentials, names, self._max_age)
        )


def is_preflight(head: Head) -> bool:
    """Tell whether an OPTIONS request is a browser's question whether a page may make another request."""
    return b"origin" in head and b"access-control-request-method" in head
