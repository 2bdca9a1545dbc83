"""Where the peers are that come from a package registry: an environment of their own, which `make bench` fills."""

from pathlib import Path

PEERS = Path(__file__).parents[2] / ".venv-peers"


def program(name: str) -> Path:
    """Say where a peer's program is, or would be."""
    return PEERS / "bin" / name
