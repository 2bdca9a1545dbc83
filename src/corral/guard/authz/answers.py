"""What a proxy is told: who it is that is admitted, and for nginx each refusal in two that it has words for."""

import json
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from corral.dialects.model import ErrorStyle
from corral.guard.authz.original import ENVOY
from corral.guard.caller import Visit
from corral.guard.shadow import told

if TYPE_CHECKING:
    from corral.guard.quota_headers import QuotaHeaders
    from corral.guard.refusal import Answer

_ANTHROPIC: Final = ErrorStyle.ANTHROPIC
_HEAD_END: Final = b"\r\n\r\n"

_NAME: Final = re.compile(r"[A-Za-z0-9_.:@/-]+")
"""A client's name that needs no encoding, as most do."""

_PLAIN: Final = "!#$&'()*+,-./:;<=>?@[]^_`{|}~"
"""What stands as it is in X-Corral-Client; all else is percent-encoded, spaces and the percent sign itself too."""

_ENVOYS: Final = b"X-Envoy-Auth-Headers-To-Remove: authorization, x-api-key\r\n"
"""By this Envoy takes the credential out of the request that it relays; the other proxies have no such header."""


def admitted(visit: Visit, quota_headers: "QuotaHeaders", date: bytes, request_id: str, question: bytes) -> bytes:
    """Write the answer to `question`, the target asked at, for a request that may go on, up to the end of its head.

    X-Corral-Client and X-Corral-Plan are always sent: what a proxy copies takes the place of what its client wrote.
    """
    caller = visit.caller
    key = caller.key
    plan = None if key is None else key.plan
    if visit.route.errors is _ANTHROPIC:
        quotas = quota_headers.full(visit.standing, None, plan, anthropic=True)
    else:
        quotas = quota_headers.lines(visit.standing, plan)
    name = caller.address if key is None else key.name
    return (
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: no-store\r\n%bX-Request-Id: %b\r\n"
        b"X-Corral-Client: %b\r\nX-Corral-Plan: %b\r\n%b%b%b"
        % (
            date,
            request_id.encode(),
            name.encode() if _NAME.fullmatch(name) else quote(name, safe=_PLAIN).encode(),
            b"" if plan is None else plan.encode(),
            _ENVOYS if question.startswith(ENVOY) else b"",
            b"X-Corral-Shadow: %b\r\n" % told(visit.shadow) if visit.shadow else b"",
            quotas,
        )
    )


def for_nginx(answer: "Answer", date: bytes, request_id: str, *, body: bool) -> bytes:
    """Write a refusal for `auth_request`: as 401 or 403, with what the client is to get in headers.

    nginx makes a 500 of every other status and never reads the body. X-Corral-Status and X-Corral-Body are what its
    configuration answers with instead. Without `body` only the head is written, as for HEAD.
    """
    head, _, content = answer.rest.partition(_HEAD_END)
    start = answer.start if answer.status == 401 else b"HTTP/1.1 403 Forbidden\r\n"
    return b"%b%bX-Request-Id: %b\r\nX-Corral-Status: %d\r\nX-Corral-Body: %b\r\n%b" % (
        start, date, request_id.encode(), answer.status, _in_a_header(content),
        answer.rest if body else head + _HEAD_END,
    )  # fmt: skip


def _in_a_header(body: bytes) -> bytes:
    """Write a JSON body so that it may stand in a header: every character but the printable ones of ASCII escaped."""
    text = body.decode()
    if text.isascii() and text.isprintable():
        return body
    return json.dumps(json.loads(text), separators=(",", ":")).encode()
