"""Whose address counts: the socket's peer, or what a trusted proxy says of the client behind it."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

_MOST_KEPT = 4096
_LONGEST_KEPT = 128
"""How many headers' addresses are kept, and of how long headers, in bytes: 0.15 µs for a request instead of 9 µs."""


def counted_as(address: Address) -> str:
    """Name the client that `address` belongs to.

    IPv6 counts as its /64, since whoever has one address of it has all of them; an IPv4-mapped address counts as the
    IPv4 address that it is.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)


class Identity:
    """Finds the client's address. `trusted` are the networks of the proxies in front; `header` is what they write."""

    def __init__(self, trusted: tuple[str, ...] = (), header: str = "x-forwarded-for") -> None:
        self._trusted = tuple(ip_network(network) for network in trusted)
        self._header = header.encode()
        self.reads_headers = bool(trusted)
        self._found: dict[tuple[str, bytes], str] = {}

    def peer(self, host: str) -> str:
        """Name the client that is the socket's peer `host` itself."""
        try:
            return counted_as(ip_address(host.partition("%")[0]))
        except ValueError:
            return host

    def client(self, peer: str, head: Mapping[bytes, bytes]) -> str:
        """Name the client: the right-most address of the header that is not a trusted proxy's, if the peer is one.

        An entry that is no address ends the search at the proxy that wrote it: what cannot be read is counted as that
        proxy, never as whoever the client would like to be.
        """
        value = head.get(self._header, b"")
        found = self._found.get((peer, value))
        if found is None:
            found = self._find(peer, value)
            if len(value) <= _LONGEST_KEPT:
                if len(self._found) >= _MOST_KEPT:
                    self._found.clear()
                self._found[peer, value] = found
        return found

    def _find(self, peer: str, value: bytes) -> str:
        nearest = _parse(peer)
        if nearest is None or not self._is_trusted(nearest):
            return self.peer(peer)
        for entry in reversed(self._entries(value)):
            address = _parse(entry)
            if address is None:
                break
            nearest = address
            if not self._is_trusted(address):
                break
        return counted_as(nearest)

    def trusts(self, host: str) -> bool:
        """Tell whether the socket's peer `host` is one of the proxies."""
        address = _parse(host)
        return address is not None and self._is_trusted(address)

    def _is_trusted(self, address: Address) -> bool:
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)

    def _entries(self, value: bytes) -> list[str]:
        entries = [entry.strip() for entry in value.decode("latin-1").split(",") if entry.strip()]
        if self._header == b"forwarded":
            return [_forwarded_for(entry) for entry in entries]
        return entries


def _forwarded_for(element: str) -> str:
    """Read `for=` from one element of a Forwarded header (RFC 7239)."""
    for pair in element.split(";"):
        name, _, value = pair.strip().partition("=")
        if name.lower() == "for":
            return value.strip().strip('"')
    return ""


def _parse(text: str) -> Address | None:
    """Read an address with or without brackets and port."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None
