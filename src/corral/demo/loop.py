"""The demo: the real server bare, scanned and flooded; then guarded, scanned and flooded again."""

import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2

from corral.demo.llama_server import LlamaServer, find_llama_server, free_port
from corral.demo.tiny_model import write_tiny_llama
from corral.demo.traffic import Flood, Latency, honest_beside_flood
from corral.errors import UpstreamError
from corral.scan import Report, scan_async

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TOKENS = 256
_WIDTH, _LAYERS = 128, 2
_FLOOD_CONNECTIONS = 16
_START_PATIENCE = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo found."""

    bare: Report
    guarded: Report
    guarded_with_key: Report
    honest_bare: Latency
    honest_guarded: Latency


async def run_demo(say: Say) -> DemoReport:
    """Run the whole loop, about a minute long; `say` is told each step.

    Raises:
        UsageError: there is no llama-server, or what makes the model is not installed.
        UpstreamError: the server or the guard did not start.

    """
    find_llama_server()
    with tempfile.TemporaryDirectory(prefix="corral-demo-") as folder:
        model = Path(folder) / "tiny.gguf"
        say("Making a tiny random Llama")
        write_tiny_llama(model, width=_WIDTH, layers=_LAYERS)
        say("Starting llama-server, bare")
        with LlamaServer.start(model, extra=["-np", "4", "-c", "16384"]) as server:
            say("Scanning it")
            bare = await scan_async(server.url)
            say("Being an honest client beside a flood")
            honest_bare = await honest_beside_flood(server.url, None, [Flood("127.0.0.2", None, _FLOOD_CONNECTIONS)])
        keys = {name: secrets.token_urlsafe(32) for name in ("honest", "abuser", "scanner")}
        say("Starting it again, guarded: corral run -- llama-server …")
        with _guarded(model, Path(folder), keys) as url:
            say("Scanning the guard with a key")
            with_key = await scan_async(url, key=keys["scanner"])
            say("Scanning the guard without a key")
            guarded = await scan_async(url)
            say("Being an honest client beside the same flood, half of it with a valid key")
            half = _FLOOD_CONNECTIONS // 2
            floods = [Flood("127.0.0.2", None, half), Flood("127.0.0.3", keys["abuser"], half)]
            honest_guarded = await honest_beside_flood(url, keys["honest"], floods)
    return DemoReport(bare, guarded, with_key, honest_bare, honest_guarded)


@contextmanager
def _guarded(model: Path, folder: Path, keys: dict[str, str]) -> "Iterator[str]":
    """Run `corral run -- llama-server` with a policy that has `keys`; yields the guard's URL."""
    policy = folder / "corral.toml"
    policy.write_text(_policy(keys), encoding="utf-8")
    binary, environment = find_llama_server()
    port = free_port()
    command = [
        sys.executable, "-m", "corral", "run", "--quiet", "--policy", str(policy), "--max-tokens", str(MAX_TOKENS),
        "--log", str(folder / "access.log"),
        "--", str(binary), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "-np", "4", "-c", "16384",
    ]  # fmt: skip
    with (folder / "guard.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  # this very program
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_own_environment(environment)
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process, folder / "guard.log")
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _own_environment(environment: dict[str, str]) -> dict[str, str]:
    """Leave out what would change the guard's policy."""
    return {name: value for name, value in environment.items() if not re.match(r"CORRAL_|LLAMA_ARG_", name)}


def _policy(keys: dict[str, str]) -> str:
    entries = [
        f'[[keys]]\nname = "{name}"\nsha256 = "{sha256(secret.encode()).hexdigest()}"\n'
        for name, secret in keys.items()
    ]
    return 'auth = "keys"\n\n[credentials]\nstore = ""\n\n' + "\n".join(entries)


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + _START_PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx2.get(f"{url}/health", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx2.HTTPError:
            time.sleep(0.1)
    raise UpstreamError(f"The guard did not start:\n{log.read_text(errors='replace')[-2000:]}")
