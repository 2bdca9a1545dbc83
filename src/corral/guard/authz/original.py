"""Which request a proxy asks about: what it tells of the original's method and URI, and what of that is believed.

Each proxy has an address of its own to ask at, so that only the headers which that proxy itself sets are read. nginx
passes on whatever X-Forwarded-Uri its client sends, and Traefik whatever X-Original-URI.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from corral.dialects.model import ErrorStyle
from corral.guard.refusal import Refusal

NGINX: Final = b"/authz/nginx"
"""Where nginx asks. Its `auth_request` knows no refusals but 401 and 403."""

ENVOY: Final = b"/authz/envoy"
"""What stands before the original path where Envoy asks. The method is the original's own."""

_TOLD: Final[dict[bytes, tuple[bytes, bytes]]] = {
    NGINX: (b"x-original-method", b"x-original-uri"),
    b"/authz/caddy": (b"x-forwarded-method", b"x-forwarded-uri"),
    b"/authz/traefik": (b"x-forwarded-method", b"x-forwarded-uri"),
}
"""Where each proxy asks, and in which headers it tells the original request."""

_METHOD: Final = re.compile(rb"[A-Z]{1,32}")
_TARGET: Final = re.compile(rb"/[\x21-\x7e]*")
"""What the parser of the gateway lets through as a request's target, less the absolute form, which is no route."""

_OPENAI: Final = ErrorStyle.OPENAI


class Original(NamedTuple):
    """The request that a proxy asks about: its method and its target, as its client sent them."""

    method: bytes
    target: bytes


def asked_by_nginx(target: bytes) -> bool:
    """Tell whether the question `target` comes from nginx."""
    return target.partition(b"?")[0] == NGINX


def read_original(method: bytes, target: bytes, head: Mapping[bytes, bytes]) -> Original | Refusal:
    """Read which request the question `method` `target` is about; a refusal where it cannot be told for certain."""
    if target.startswith(ENVOY) and target[len(ENVOY) : len(ENVOY) + 1] == b"/":
        original = Original(method, target[len(ENVOY) :])
    else:
        # Caddy adds its client's own query to the address that it asks at; nothing there is read.
        names = _TOLD.get(target.partition(b"?")[0])
        if names is None:
            places = ", ".join(place.decode() for place in sorted((*_TOLD, ENVOY)))
            return _refusal("not_found", f"This guard answers proxies, which ask at one of {places}.")
        for name in names:
            if name not in head:
                return _refusal("invalid_request", f"The proxy must send the header {name.decode()}.")
        original = Original(head[names[0]], head[names[1]])
    if _METHOD.fullmatch(original.method) is None or _TARGET.fullmatch(original.target) is None:
        return _refusal("bad_http", "The original request is no HTTP: a method in capitals, and a path from its root.")
    return original


def _refusal(kind: str, message: str) -> Refusal:
    return Refusal(kind, message, _OPENAI, "unknown")
