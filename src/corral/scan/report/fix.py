"""The command that mends a finding, written for the server that was scanned."""

import shlex
from urllib.parse import urlsplit

from corral.scan.checks.base import Check

_MOST = 65535


def fix_command(check: Check, target: str) -> str:
    """Write the command line that mends what `check` found at `target`; it can be pasted as it is."""
    return check.fix_corral.format(guard=guard_command(target))


def guard_command(target: str) -> str:
    """Write how to put a guard in front of `target`, on the port beside it: the server's own is taken.

    A guard in front of this machine's server answers this machine, one in front of another answers everybody (and
    then demands keys). It speaks plain HTTP to the server, whatever the scan went through.
    """
    parts = urlsplit(target)
    host = parts.hostname or "localhost"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    shown = f"[{host}]" if ":" in host else host
    beside = _beside(port)
    listen = f"127.0.0.1:{beside}" if host in ("localhost", "::1") or host.startswith("127.") else f":{beside}"
    return f"corral guard {shlex.quote(f'http://{shown}:{port}')} --listen {listen}"


def _beside(port: int) -> int:
    """Choose another port, one that takes no privilege."""
    if port < 1024:
        return 8000 + port
    return port + 1 if port < _MOST else port - 1
