"""What is scanned, and whether it may be."""

import socket
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from corral.errors import TargetError, UsageError


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint: its base URL without a trailing slash, and where it is."""

    url: str
    host: str
    port: int
    tls: bool
    loopback: bool

    @property
    def authority(self) -> str:
        """What a Host header says."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def find_target(url: str, *, owned: bool = False) -> Target:
    """Read `url`, and make sure that it may be scanned: loopback and private addresses may, others only if `owned`.

    Raises:
        UsageError: `url` is no URL of a server.
        TargetError: its name does not resolve, or it is public and nobody said that it may be scanned.

    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise UsageError(f"{url} has no valid port.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise UsageError(f'{url} is no server: write it as "http://localhost:8080".')
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise TargetError(f"{parts.hostname} cannot be found: {error.strerror or error}.") from error
    addresses = {ip_address(str(entry[4][0]).partition("%")[0]) for entry in found}
    if not owned and not all(
        address.is_private or address.is_loopback or address.is_link_local for address in addresses
    ):
        raise TargetError(
            f"{parts.hostname} is a public address. Scan only what is yours; if it is, say so with --i-own-this."
        )
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
    return Target(base, parts.hostname, port, parts.scheme == "https", all(a.is_loopback for a in addresses))
