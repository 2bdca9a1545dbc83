"""Whether the server to be guarded is the guard itself, which would relay every request to itself for ever."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from corral.errors import UsageError
from corral.policy.address import Endpoint, parse_endpoint
from corral.policy.model import Policy
from corral.policy.servers import servers

Address = IPv4Address | IPv6Address

_HERE = frozenset((ip_address("127.0.0.1"), ip_address("::1"), ip_address("0.0.0.0"), ip_address("::")))  # noqa: S104  # compared with
"""The usual ways to write this machine: a connection to any of them is one to a listener on any other."""


def refuse_itself(policy: Policy) -> None:
    """Make sure that no server is where the guard listens.

    Raises:
        UsageError: one is; the message says what to write.

    """
    for server in servers(policy).values():
        _refuse(policy, server.url)


def _refuse(policy: Policy, url: str) -> None:
    listen = parse_endpoint(policy.listen.address)
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None or (parts.port or 80) != listen.port:
        return
    if parts.hostname != listen.host and not _meet(addresses_of(listen.host), addresses_of(parts.hostname)):
        return
    free = Endpoint(listen.host, listen.port + 1 if listen.port < 65535 else listen.port - 1)
    raise UsageError(
        f"The guard would listen on {listen}, which is the very server that it is to guard ({url}). Let it listen "
        f"elsewhere, as in: corral guard {url} --listen {free}"
    )


def addresses_of(host: str) -> frozenset[Address]:
    """Resolve a name; an empty set where it is not known."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return frozenset()
    return frozenset(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found)


def _meet(listening: frozenset[Address], wanted: frozenset[Address]) -> bool:
    """Tell whether a connection to one of `wanted` may reach a listener on `listening`."""
    if listening & wanted or (listening & _HERE and wanted & _HERE):
        return True
    everywhere = any(address.is_unspecified for address in listening)
    return everywhere and any(address.is_loopback or _is_ours(address) for address in wanted)


def _is_ours(address: Address) -> bool:
    """Tell whether this machine has the address: only then may a socket be bound to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
        return True
