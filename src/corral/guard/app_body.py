"""The body that an application receives: what the guard understood, with the maximum where the client wrote it."""

import orjson

from corral.dialects.forms.fields import MAXIMA

_NAMES = tuple(name.encode() for name in MAXIMA)


def for_app(received: bytes, prepared: bytes, cap: int) -> bytes:
    """Write `cap` under every name for the maximum that the client used, besides the one that `prepared` has.

    A server is sent one name, the one that it reads. Which one an application reads is not known, and without the one
    that the client wrote it would take a default of its own.
    """
    if not cap or not (b"\\u" in received or any(name in received for name in _NAMES)):
        return prepared
    body = orjson.loads(prepared)
    asked = orjson.loads(received)
    body.update((name, cap) for name in MAXIMA if asked.get(name) is not None)
    return orjson.dumps(body)
