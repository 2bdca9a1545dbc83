"""Why there was no answer, in words."""

import os
import socket
import ssl

import httpx2

TIMED_OUT = "timed out"
REFUSED = "connection refused"
CLOSED = "connection closed"


def in_words(error: BaseException) -> str:
    """Say what went wrong on the way to a server: "connection refused", "name not known", "timed out", "TLS: …"."""
    chain = _chain(error)
    for link in chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            return f"TLS: the certificate is not trusted ({link.verify_message.rstrip('.')})"
        if isinstance(link, ssl.SSLError):
            reason = getattr(link, "reason", None) or "handshake failed"
            return f"TLS: {reason.replace('_', ' ').lower()} (does it speak https?)"
        if isinstance(link, socket.gaierror):
            return "name not known"
        if isinstance(link, TimeoutError | httpx2.TimeoutException):
            return TIMED_OUT
        if isinstance(link, ConnectionRefusedError):
            return REFUSED
        if isinstance(link, ConnectionError):
            return CLOSED
    for link in chain:
        if isinstance(link, OSError) and link.errno:
            return os.strerror(link.errno).lower()
    if isinstance(error, httpx2.ReadError | httpx2.WriteError):
        return CLOSED
    if isinstance(error, httpx2.RemoteProtocolError):
        return CLOSED if "disconnected" in str(error) or "closed" in str(error) else "the answer is no valid HTTP"
    return f"{error}" or type(error).__name__


def _chain(error: BaseException) -> list[BaseException]:
    """List the error, what caused it, and what those of a group are."""
    links: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        link = todo.pop(0)
        if link is None or link in links:
            continue
        links.append(link)
        todo += [*getattr(link, "exceptions", ()), link.__cause__ or link.__context__]
    return links
