"""nginx, Caddy, Traefik and Envoy as people run them, with the example configurations."""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples" / "forward-auth"
WHEELS = Path(__file__).parents[1] / ".venv-proxies" / "bin"
CONFIGURATIONS = {"nginx": "nginx.conf", "caddy": "Caddyfile", "traefik": "traefik-dynamic.yaml", "envoy": "envoy.yaml"}
_PATIENCE = 60.0


def program(proxy: str) -> str | None:
    """Find a proxy: on the PATH, or where `make test` puts those that come as wheels."""
    own = WHEELS / proxy
    return str(own) if own.exists() else shutil.which(proxy)


def _command(proxy: str, path: str, configuration: Path, port: int) -> list[str]:
    folder = configuration.parent
    return {
        "nginx": [path, "-e", f"{folder}/error.log", "-p", str(folder), "-c", str(configuration)],
        "caddy": [path, "run", "--config", str(configuration), "--adapter", "caddyfile"],
        "traefik": [path, f"--entryPoints.web.address=127.0.0.1:{port}", f"--providers.file.filename={configuration}",
                    "--log.level=ERROR", "--global.checkNewVersion=false", "--global.sendAnonymousUsage=false"],
        "envoy": [path, "-c", str(configuration), "--concurrency", "1", "--disable-hot-restart", "-l", "error"],
    }[proxy]  # fmt: skip


@contextmanager
def running_proxy(proxy: str, folder: Path, *, guard: int, server: int) -> Iterator[int]:
    """Run `proxy` by its example, with the ports of a test in the place of the example's; gives its port."""
    path = program(proxy)
    assert path is not None, f"{proxy} is not installed: make test brings it"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    text = (EXAMPLES / CONFIGURATIONS[proxy]).read_text()
    ports = {"8080": port, "8081": server, "8082": guard}
    text = re.sub(r"\b808[012]\b", lambda found: str(ports[found[0]]), text)
    if proxy == "nginx":
        temporary = "".join(
            f"{what}_temp_path {folder}/{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;" + text
        text = text.replace("http {", f"http {{ access_log off; {temporary}", 1)
    configuration = folder / CONFIGURATIONS[proxy]
    configuration.write_text(text)
    log = folder / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(proxy, path, configuration, port),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env={"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/bin"},
        )  # fmt: skip
    try:
        _wait_until_ready(process, port, log)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Wait until the proxy answers what it relays, not only listens."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n")
                if connection.recv(100).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"it was never ready: {log.read_text()}")
