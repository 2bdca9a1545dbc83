"""Reloads of guards that run as processes: by signal and by file, right and wrong."""

import fcntl
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path

import httpx2
import pytest

from corral.demo.llama_server import LlamaServer
from running_commands import PATIENCE, Command, Start

pytestmark = pytest.mark.e2e


def policy(server: LlamaServer, rest: str) -> str:
    return f'[listen]\naddress = "127.0.0.1:0"\n[upstream]\nurl = "{server.url}"\n[log]\npath = ""\n{rest}'


def limit(amount: int) -> str:
    return f'[[limits]]\nname = "client"\nquota = "{amount}/hour"\nalgorithm = "window"\n'


def ask(url: str, **body: object) -> httpx2.Response:
    return httpx2.post(f"{url}/completion", json={"prompt": "hi", "n_predict": 1, **body}, trust_env=False, timeout=90)


@pytest.fixture
def file(tmp_path: Path, llama_server: LlamaServer) -> Path:
    path = tmp_path / "corral.toml"
    path.write_text(policy(llama_server, limit(5)))
    return path


def test_a_hang_up_reloads_and_counts_are_kept(corral: Start, llama_server: LlamaServer, file: Path) -> None:
    command = corral("guard", "--policy", file, "--max-tokens", "9")
    assert [ask(command.url).status_code for _ in range(3)] == [200] * 3
    file.write_text(policy(llama_server, limit(6) + "[generation]\nmax_tokens = 5\nmax_prompt = 99\n"))
    command.signal(signal.SIGHUP)
    command.said(r"Reloaded .*corral.toml: limits, generation.max_prompt changed\.")
    answers = [ask(command.url) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429]
    assert ask(command.url).headers["X-RateLimit-Limit"] == "6"
    assert answers[0].headers["X-Corral-Max-Tokens"] == "1"
    command.signal(signal.SIGTERM)
    assert command.wait() == 0


def test_flags_and_the_environment_keep_their_rank(corral: Start, llama_server: LlamaServer, file: Path) -> None:
    environ = {"CORRAL_GENERATION_MAX_PROMPT": "50"}
    command = corral("guard", "--policy", file, "--max-tokens", "9", environ=environ)
    assert ask(command.url, n_predict=20).headers["X-Corral-Max-Tokens"] == "9"
    file.write_text(policy(llama_server, "[generation]\nmax_tokens = 5\nmax_prompt = 99\nmax_inputs = 3\n"))
    command.signal(signal.SIGHUP)
    command.said(r"Reloaded .*: limits, generation.max_inputs changed\.")
    assert ask(command.url, n_predict=20).headers["X-Corral-Max-Tokens"] == "9"
    assert ask(command.url, prompt="x" * 51).status_code == 400


def test_a_file_that_is_edited_is_reloaded(corral: Start, llama_server: LlamaServer, file: Path) -> None:
    command = corral("guard", "--policy", file)
    assert ask(command.url, n_predict=20).headers["X-Corral-Max-Tokens"] == "20"
    saved = file.with_suffix(".new")
    saved.write_text(policy(llama_server, "[generation]\nmax_tokens = 7\n"))
    saved.rename(file)
    command.said("Reloaded")
    assert ask(command.url, n_predict=20).headers["X-Corral-Max-Tokens"] == "7"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("[generation]\nmax_tokns = 7\n", r'line 8: generation\.max_tokns: .*Did you mean "max_tokens"'),
        ("[listen", "not valid TOML"),
        ("", "it is empty"),
        ('[admin]\nlisten = "127.0.0.1:0"\n', r"admin\.listen has changed, which takes a restart"),
        ('auth = "none"\n[[keys]]\n', r"corral\.toml"),
    ],
)
def test_a_wrong_file_changes_nothing_and_is_said(
    corral: Start, llama_server: LlamaServer, file: Path, wrong: str, said: str
) -> None:
    command = corral("guard", "--policy", file, "--quiet", "--listen", f"127.0.0.1:{(port := _free_port())}")
    url = f"http://127.0.0.1:{port}"
    _until_up(command, url)
    file.write_text(policy(llama_server, wrong) if wrong else "")
    command.signal(signal.SIGHUP)
    command.said("The policy stays as it was")
    command.said(said)
    assert ask(url).headers["X-RateLimit-Limit"] == "5"
    file.write_text(policy(llama_server, limit(900)))
    end = time.monotonic() + PATIENCE
    while ask(url).headers["X-RateLimit-Limit"] != "900":
        assert time.monotonic() < end


def test_a_policy_that_was_deleted_is_missed(corral: Start, llama_server: LlamaServer, file: Path) -> None:
    command = corral("guard", "--policy", file)
    assert ask(command.url).headers["X-RateLimit-Limit"] == "5"
    file.unlink()
    assert "corral init" not in command.said(r"cannot be used: it is not there any more.*").group()
    file.write_text(policy(llama_server, limit(6)))
    command.said("Reloaded")


def test_a_lost_line_opens_no_guard(corral: Start, llama_server: LlamaServer, file: Path) -> None:
    key = f'[[keys]]\nname = "a"\nsha256 = "{"ab" * 32}"\n'
    file.write_text(policy(llama_server, key))
    command = corral("guard", "--policy", file)
    assert ask(command.url).status_code == 401
    file.write_text(policy(llama_server, ""))
    command.signal(signal.SIGHUP)
    command.said('Write auth = "none" if that is meant')
    assert ask(command.url).status_code == 401
    file.write_text('auth = "none"\n' + policy(llama_server, ""))
    command.signal(signal.SIGHUP)
    command.said("Reloaded .*: auth, .*keys")
    assert ask(command.url).status_code == 200


def test_without_a_file_a_hang_up_says_so_and_ends_nothing(corral: Start, llama_server: LlamaServer) -> None:
    command = corral("guard", llama_server.url, "--listen", "127.0.0.1:0", "--log", "")
    assert ask(command.url).status_code == 200
    command.signal(signal.SIGHUP)
    command.said("There is nothing to reload: .* Start it with --policy FILE")
    assert ask(command.url).status_code == 200


def test_a_made_key_stays(corral: Start, llama_server: LlamaServer, file: Path) -> None:
    command = corral("guard", "--policy", file, "--auth", "keys")
    key = command.said(r"(?m)^ +(crl_\w{49})$").group(1)
    file.write_text(policy(llama_server, limit(900)))
    command.signal(signal.SIGHUP)
    command.said("Reloaded")
    answer = httpx2.post(f"{command.url}/completion", json={"prompt": "hi", "n_predict": 1},
                         headers={"Authorization": f"Bearer {key}"}, trust_env=False)  # fmt: skip
    assert (answer.status_code, answer.headers["X-RateLimit-Limit"]) == (200, "900")
    assert len(re.findall(r"crl_\w{49}", command.errors)) == 1


def test_the_server_of_corral_run_stays(corral: Start, server_program: str, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "corral.toml"
    file.write_text("[generation]\nmax_tokens = 9\n")
    command = corral("run", "--policy", file, "--", server_program, "--port", "0", "-m", tiny_model, "-np", "2")
    assert ask(command.url, n_predict=20).headers["X-Corral-Max-Tokens"] == "9"
    child = command.child
    file.write_text("[generation]\nmax_tokens = 7\n")
    command.signal(signal.SIGHUP)
    command.said(r"Reloaded .*: generation\.max_tokens changed\.")
    assert ask(command.url, n_predict=20).headers["X-Corral-Max-Tokens"] == "7"
    assert command.child == child


def test_a_guard_whose_terminal_is_closed_ends(llama_server: LlamaServer, tmp_path: Path, file: Path) -> None:
    """It would go on unseen, and in nobody's hands."""
    master, slave = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    clean = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "corral", "guard", "--policy", str(file)],
        stdin=slave, stdout=slave, stderr=slave, preexec_fn=take_terminal,  # noqa: PLW1509  # nothing else can take a terminal
        cwd=tmp_path,
        env={**clean, "XDG_STATE_HOME": str(tmp_path / "state")},
    )  # fmt: skip
    os.close(slave)
    try:
        said = b""
        while b"Listens on" not in said:
            said += os.read(master, 4096)
        os.close(master)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _until_up(command: Command, url: str) -> None:
    while True:
        try:
            assert ask(url).status_code == 200
        except httpx2.ConnectError:
            assert command.process.poll() is None
        else:
            return
