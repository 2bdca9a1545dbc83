"""Reading "host:port"."""

from dataclasses import dataclass
from ipaddress import ip_address

from corral.errors import PolicyError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to listen on."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """Read "127.0.0.1:8080", "[::1]:8080", "localhost:8080", or ":8080" for every address.

    Raises:
        PolicyError: `text` is none of these.

    """
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise PolicyError(f'"{text}" is no address to listen on: write an IPv6 address in brackets, as "[::1]:8080".')
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise PolicyError(f'"{text}" is no address to listen on: write a host and a port, as "127.0.0.1:8080".')
    return Endpoint(host or "0.0.0.0", int(port))  # noqa: S104  # what an empty host means; said in the docs
