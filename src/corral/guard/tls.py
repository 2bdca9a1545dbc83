"""The listener's certificate, and its renewal without closing a connection."""

import ssl
from pathlib import Path

from corral.errors import PolicyError
from corral.policy.model import Listen


class Certificate:
    """What new connections are secured with. `context` is for the listener, and stays the same for good.

    A renewed certificate has a context of its own, which each new connection is given in its handshake: so either all
    of a renewal is in force or nothing of it, and connections that are open keep theirs.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        """Begin with a context that `load_certificate` made."""
        self.context = context
        self._current = context
        context.sni_callback = self._choose

    def renew(self, context: ssl.SSLContext) -> None:
        """Secure new connections with `context`, which `load_certificate` made."""
        self._current = context

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Answer OpenSSL, which asks in each handshake, whether a name was sent or not."""
        if connection.context is not self._current:
            connection.context = self._current


def load_certificate(listen: Listen) -> ssl.SSLContext | None:
    """Read the certificate that `[listen]` names; None where it names none.

    Raises:
        PolicyError: it cannot be used.

    """
    if listen.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for name, path in (("tls_certificate", listen.tls_certificate), ("tls_key", listen.tls_key)):
        if path is not None:
            _look_at(name, path)
    try:
        context.load_cert_chain(Path(listen.tls_certificate), Path(listen.tls_key or listen.tls_certificate))
    except (OSError, ssl.SSLError) as error:
        raise PolicyError(
            f"The TLS certificate {listen.tls_certificate} cannot be used: {error}. "
            "listen.tls_certificate and listen.tls_key must be readable PEM files that belong together."
        ) from error
    return context


def _look_at(name: str, path: str) -> None:
    """Tell which of the two files cannot be read; OpenSSL does not."""
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise PolicyError(f"listen.{name}: {path} cannot be read: {error.strerror}.") from None
