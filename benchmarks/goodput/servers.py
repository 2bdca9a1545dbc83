"""What stands between the clients and llama-server: nothing, Corral, nginx, slowapi, with the same limits."""

import os
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """The keys that are valid, how many requests each client may make in a minute, and the server's slots."""

    keys: tuple[str, ...]
    per_minute: int
    slots: int


class Server(Protocol):
    """One way to put the model on a network."""

    name: str

    def set_up(self, upstream: str, port: int, limits: Limits, folder: Path) -> tuple[str, ...] | None:
        """Write its files and say how it is started on `port`; None for the bare server."""
        ...


class Bare:
    """llama-server itself."""

    name = "bare"

    def set_up(self, upstream: str, port: int, limits: Limits, folder: Path) -> None:
        """Nothing stands in front."""


class Corral:
    """`corral guard`: a quota for each key, places as the server has slots, the fair queue."""

    name = "corral"

    def set_up(self, upstream: str, port: int, limits: Limits, folder: Path) -> tuple[str, ...]:
        """Write the policy."""
        keys = "".join(
            f'[[keys]]\nname = "k{number}"\nsha256 = "{sha256(key.encode()).hexdigest()}"\n'
            for number, key in enumerate(limits.keys)
        )
        (folder / "corral.toml").write_text(
            f'auth = "keys"\n{keys}[[limits]]\nname = "client"\nquota = "{limits.per_minute}/minute"\n'
            f"[generation]\nmax_tokens = 64\n[concurrency]\nmax_running = {limits.slots}\n"
            '[credentials]\nstore = ""\n'
        )
        compiled = Path(__file__).parents[2] / "build" / "compiled"
        return (
            "env", f"PYTHONPATH={compiled}", str(Path(sys.executable).with_name("corral")), "guard", upstream,
            "--listen", f"127.0.0.1:{port}", "--policy", str(folder / "corral.toml"),
            "--log", str(folder / "access.jsonl"),
        )  # fmt: skip


class Nginx:
    """nginx: `limit_req` by address, with the quota of a minute as its burst."""

    name = "nginx"

    def set_up(self, upstream: str, port: int, limits: Limits, folder: Path) -> tuple[str, ...]:
        """Write nginx.conf."""
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off; worker_processes 1; {user} pid {folder}/nginx.pid; error_log {folder}/error.log crit;"
            f"events {{ worker_connections 4096; }} http {{ {temporary} access_log off;"
            f"limit_req_zone $binary_remote_addr zone=clients:10m rate={limits.per_minute}r/m;"
            f"server {{ listen 127.0.0.1:{port} backlog=1024; location / {{"
            f"limit_req zone=clients burst={limits.per_minute} nodelay; limit_req_status 429;"
            f"proxy_pass {upstream}; proxy_http_version 1.1; proxy_buffering off; proxy_read_timeout 60s; }} }} }}"
        )
        return ("nginx", "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(folder / "nginx.conf"))


class Slowapi:
    """FastAPI with slowapi by address, and httpx."""

    name = "slowapi"

    def set_up(self, upstream: str, port: int, limits: Limits, folder: Path) -> tuple[str, ...]:
        """Start the application that the other benchmarks use; it needs no files."""
        del folder
        application = Path(__file__).parents[1] / "contestants" / "slowapi_app.py"
        return (sys.executable, "-P", str(application), str(port), upstream, f"{limits.per_minute}/minute", "httpx")


SERVERS: tuple[Server, ...] = (Corral(), Nginx(), Slowapi(), Bare())
