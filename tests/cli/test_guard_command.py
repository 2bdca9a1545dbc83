"""`corral guard`, in front of the real llama-server."""

import json
import re
import signal
import socket
import time
from pathlib import Path

import httpx2
import pytest

from corral.demo.llama_server import LlamaServer
from corral.guard.key_desk import KeyDesk
from corral.guard.key_store import KeyStore
from corral.policy.model import Policy
from running_commands import Start

pytestmark = pytest.mark.e2e


def ask(url: str, key: str = "") -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"prompt": "hi", "n_predict": 2}
    return httpx2.post(f"{url}/completion", json=body, headers=headers, trust_env=False, timeout=30).status_code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_guards_until_a_signal_ends_it(corral: Start, llama_server: LlamaServer, number: int) -> None:
    command = corral("guard", llama_server.url, "--listen", "127.0.0.1:0", "--rate-limit", "2")
    assert [ask(command.url) for _ in range(3)] == [200, 200, 429]
    assert "2 requests per minute" in command.errors
    command.signal(number)
    assert command.wait() == 0


def test_requests_are_logged_to_a_file_that_can_be_moved(
    corral: Start, llama_server: LlamaServer, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    command = corral("guard", llama_server.url, "--listen", "127.0.0.1:0", "--log", path)
    assert ask(command.url) == 200
    path.rename(tmp_path / "access.log.1")
    command.signal(signal.SIGUSR1)
    while not path.exists():
        assert ask(command.url) == 200
    assert ask(command.url) == 200
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
    lines = (tmp_path / "access.log.1").read_text().splitlines() + path.read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert {entry["route"] for entry in entries} == {"completion"}
    assert {entry["status"] for entry in entries} == {200}
    assert json.loads(path.read_text().splitlines()[-1])["completion_tokens"] == 2


def test_what_is_logged_as_a_warning_is_said_as_all_else(corral: Start) -> None:
    command = corral("guard", f"127.0.0.1:{_free_port()}", "--listen", "127.0.0.1:0")
    for _ in range(5):
        assert ask(command.url) in (502, 503)
    command.said(r"gets no requests for a while")
    assert all(line.startswith("corral: ") for line in command.errors.splitlines())


def test_nothing_is_said_of_servers_where_a_proxy_relays(corral: Start) -> None:
    command = corral("guard", "--authz", "--listen", "127.0.0.1:0")
    command.said(r"Listens on")
    command.signal(signal.SIGTERM)
    command.said("Ending")
    assert "how many slots" not in command.errors


def test_it_says_how_many_slots_the_server_has(corral: Start, llama_server: LlamaServer) -> None:
    command = corral("guard", llama_server.url, "--listen", "127.0.0.1:0")
    command.said(r"The server upstream \(http://127.0.0.1:\d+\) has 4 slots: 4 requests run there at once.")
    fewer = corral("guard", llama_server.url, "--listen", "127.0.0.1:0", "--max-concurrent", "3")
    fewer.said("Of these 4 slots 3 are used at once.")


def test_a_server_that_is_not_there_is_mentioned(corral: Start) -> None:
    command = corral("guard", f"127.0.0.1:{_free_port()}", "--listen", "127.0.0.1:0")
    command.said("is not well: the server cannot be reached: Connection refused. It is asked until it is.")


def test_metrics_have_a_listener_of_their_own(corral: Start, llama_server: LlamaServer) -> None:
    command = corral("guard", llama_server.url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert ask(command.url) == 200
    admin = command.said(r"Metrics and health: (http://127.0.0.1:\d+)/metrics").group(1)
    assert httpx2.get(f"{admin}/health", trust_env=False).json() == {"status": "ok"}
    text = httpx2.get(f"{admin}/metrics", trust_env=False).text
    assert 'corral_requests_total{ending="answered",plan="none",route="completion",status="200"} 1.0' in text
    assert "corral_log_lines_dropped_total 0.0" in text
    assert "corral_running_requests 0.0" in text


def test_the_admin_key_of_the_environment_opens_the_admin_api(corral: Start, llama_server: LlamaServer) -> None:
    key = "0123456789abcdef"
    command = corral(
        "guard",
        llama_server.url,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        environ={"CORRAL_ADMIN_KEY": key},
    )
    admin = command.said(r"Metrics and health: (http://127.0.0.1:\d+)/metrics").group(1)
    command.said("The admin API there is open to admin keys")
    assert httpx2.get(f"{admin}/status", trust_env=False).status_code == 401
    answer = httpx2.get(f"{admin}/status", headers={"Authorization": f"Bearer {key}"}, trust_env=False)
    assert answer.json()["running"] == 0
    assert key not in command.errors


def test_without_an_admin_key_the_admin_api_is_closed(corral: Start, llama_server: LlamaServer) -> None:
    command = corral("guard", llama_server.url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    admin = command.said(r"Metrics and health: (http://127.0.0.1:\d+)/metrics").group(1)
    command.said("closed, since no admin key is configured")
    assert httpx2.get(f"{admin}/status", trust_env=False).status_code == 403


def test_a_key_is_made_where_one_is_demanded_and_none_is_there(
    corral: Start, llama_server: LlamaServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    port = _free_port()
    arguments = ("--listen", f"127.0.0.1:{port}", "--auth", "keys", "--quiet", "--log", log)
    command = corral("guard", llama_server.url, *arguments)
    key = command.said(r"(?m)^ +(crl_\w{49})$").group(1)
    url = f"http://127.0.0.1:{port}"
    assert (ask(url), ask(url, key)) == (401, 200)
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
    assert command.errors.count(key) == 1
    assert key not in log.read_text()
    assert "Listens on" not in command.errors


def test_quiet_is_quiet(corral: Start, llama_server: LlamaServer, tmp_path: Path) -> None:
    (tmp_path / "corral.toml").write_text("")
    port = _free_port()
    command = corral("guard", llama_server.url, "--listen", f"127.0.0.1:{port}", "--quiet")
    while True:
        try:
            assert ask(f"http://127.0.0.1:{port}") == 200
            break
        except httpx2.ConnectError:
            assert command.process.poll() is None
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
    assert command.errors == ""


def test_a_policy_is_used_when_it_is_named(corral: Start, llama_server: LlamaServer, tmp_path: Path) -> None:
    policy = tmp_path / "corral.toml"
    policy.write_text(f'[listen]\naddress = "127.0.0.1:0"\n[upstream]\nurl = "{llama_server.url}"\n')
    assert ask(corral("guard", "--policy", policy).url) == 200
    unnamed = corral("guard", llama_server.url, "--listen", "127.0.0.1:0")
    unnamed.said("A corral.toml lies here and is not used")


def test_an_address_in_use_is_said(corral: Start, llama_server: LlamaServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = corral("guard", llama_server.url, "--listen", address)
        assert command.wait() == 3
        admin = corral("guard", llama_server.url, "--listen", "127.0.0.1:0", "--admin", address)
        assert admin.wait() == 3
    for option, errors in (("--listen", command.errors), ("--admin", admin.errors)):
        assert f"Cannot listen on {address}: " in errors
        assert f"Choose another address with {option}." in errors
        assert "in use" in errors
        assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Say which server to guard"),
        (("ftp://x",), "is no server"),
        (("foo",), "write a host and a port"),
        (("http://localhost:8080",), "--listen 127.0.0.1:8081"),
        (("127.0.0.1:1", "--listen", "nowhere"), "--listen"),
        (("127.0.0.1:1", "--rate-window", "5"), "--rate-limit"),
        (("127.0.0.1:1", "--rate-limit", "0"), "greater than or equal to 1"),
        (("127.0.0.1:1", "--max-concurrent", "1000"), "max_connections"),
        (("127.0.0.1:1", "--log", "no/such/folder"), "cannot be opened"),
        (("127.0.0.1:1", "--authz"), "there is no server to name"),
        (("--authz", "--max-tokens", "9"), "generation.max_tokens: remove it"),
        (("--authz", "--max-concurrent", "4"), "concurrency.max_running: remove it"),
        (("--authz", "--listen", "0.0.0.0:0"), "identity.trusted_proxies"),
    ],
)
def test_what_cannot_be_ends_with_status_2(corral: Start, arguments: tuple[str, ...], said: str) -> None:
    command = corral("guard", *arguments, environ={"COLUMNS": "200"})
    assert command.wait() == 2
    command.said(re.escape(said))
    assert "Traceback" not in command.errors


def test_a_name_that_is_not_known_is_said(corral: Start) -> None:
    command = corral("guard", "http://no-such-host.invalid:8081", "--listen", "127.0.0.1:0")
    command.said("the name no-such-host.invalid .* is not known")
    command.said("Listens on")
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
    assert "Ending: no request is running." in command.errors


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_keys_made_beside_it_are_let_in_at_once(corral: Start, llama_server: LlamaServer, tmp_path: Path) -> None:
    command = corral("guard", llama_server.url, "--listen", "127.0.0.1:0", "--auth", "keys", "--log", "")
    key = command.said(r"(?m)^ +(crl_\w{49})$").group(1)
    url = command.url
    assert ask(url, key) == 200
    assert corral("keys", "create", "--name", "alice").wait() == 0
    store = tmp_path / "state" / "corral" / "keys.db"
    with KeyStore.open(store) as opened:
        secret = KeyDesk(opened, Policy()).rotate("alice", time.time(), grace=0.0, lifetime=None).made.secret
    end = time.monotonic() + 10
    while ask(url, secret) != 200:
        assert time.monotonic() < end
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
    again = corral("guard", llama_server.url, "--listen", "127.0.0.1:0", "--log", "")
    assert (ask(again.url, secret), ask(again.url)) == (200, 401)
    again.said(re.escape(f"a key from {store}"))
    opened_to_all = corral("guard", llama_server.url, "--listen", "127.0.0.1:0", "--log", "", "--auth", "none")
    opened_to_all.said(re.escape(f"Nobody is asked for the keys in {store}"))
    assert ask(opened_to_all.url) == 200


def test_a_store_that_cannot_be_used_ends_with_status_2(corral: Start, tmp_path: Path) -> None:
    (tmp_path / "keys.db").write_text("no database " * 100)
    (tmp_path / "keys.db").chmod(0o600)
    command = corral("guard", "127.0.0.1:1", "--listen", "127.0.0.1:0", environ={"CORRAL_CREDENTIALS_STORE": "keys.db"})
    assert command.wait() == 2
    command.said("The key store keys.db cannot be used")
    assert "Traceback" not in command.errors


def test_with_authz_it_decides_and_relays_nothing(corral: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = ("--listen", "127.0.0.1:0", "--rate-limit", "1", "--admin", "127.0.0.1:0", "--log", log)
    command = corral("guard", "--authz", *arguments)
    key = command.said(r"(?m)^ +(crl_\w{49})$").group(1)

    def ask(headers: dict[str, str]) -> int:
        told = {"X-Forwarded-Method": "POST", "X-Forwarded-Uri": "/v1/completions", "X-Forwarded-For": "192.0.2.1"}
        return httpx2.get(f"{command.url}/authz/caddy", headers={**told, **headers}, trust_env=False).status_code

    known = {"Authorization": f"Bearer {key}"}
    assert [ask({}), ask(known), ask(known)] == [401, 200, 429]
    assert ask({"X-Forwarded-Uri": "/nowhere", **known}) == 404
    assert "Not enforced" in command.errors
    assert "answers 127.0.0.0/8" in command.errors.lower()
    admin = command.said(r"Metrics and health: (http://127.0.0.1:\d+)/metrics").group(1)
    text = httpx2.get(f"{admin}/metrics", trust_env=False).text
    assert re.search(r'corral_requests_total\{[^}]*status="200"[^}]*\} 1.0', text)
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(entry["method"], entry["status"]) for entry in entries] == [
        ("POST", 401), ("POST", 200), ("POST", 429), ("POST", 404),
    ]  # fmt: skip
    assert key not in log.read_text()


def test_with_authz_a_policy_that_needs_bodies_does_not_start(corral: Start, tmp_path: Path) -> None:
    path = tmp_path / "corral.toml"
    path.write_text('[generation]\nmax_tokens = 2048\n[[limits]]\nname = "t"\nquota = "9 tokens/day"\n')
    environ = {"CORRAL_CONCURRENCY_MAX_WAIT": "30", "COLUMNS": "200"}
    command = corral("guard", "--authz", "--policy", path, environ=environ)
    assert command.wait() == 2
    for name in ("generation.max_tokens", "concurrency.max_wait", "limits[0].quota"):
        command.said(re.escape(f"{name}: "))
