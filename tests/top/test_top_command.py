"""`corral top` as people and scripts run it: on a terminal, in a pipe, with the wrong key, and with nobody there."""

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.policy.model import LimitRule, Policy, Quota
from running_admin import KEY, OPEN, AdminFactory, RunningAdmin, start_admin
from running_guard import api_key, start_guard

__all__ = ["start_admin", "start_guard"]

PATIENCE = 30.0
LIMITS = (LimitRule(name="hourly", quota=Quota(10, 3600.0), algorithm="window"),)
POLICY = Policy(auth="keys", keys=(api_key("alice", "al1ce"),), admin=OPEN, limits=LIMITS)


@pytest.fixture
def admin(start_admin: AdminFactory) -> RunningAdmin:
    running = start_admin(policy=POLICY)
    running.running.exchange(headers="Authorization: Bearer al1ce\r\n")
    running.running.exchange(headers="Authorization: Bearer wrong\r\n")
    running.running.settled(2)
    return running


def environ(key: str | None = KEY) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
    return clean | {"TERM": "xterm"} | ({} if key is None else {"CORRAL_ADMIN_KEY": key})


def top(*arguments: str | Path, key: str | None = KEY) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "corral", "top", *map(str, arguments)]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environ(key),
        timeout=PATIENCE,
        check=False,
    )


def test_json_has_everything_and_the_rates(admin: RunningAdmin) -> None:
    result = top(admin.url, "--json", "--interval", "0.2")
    assert (result.returncode, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert told["status"]["ended"]["answered"] == 1
    assert told["status"]["ended"]["refused"] == 1
    assert told["rates"] == {"admitted": 0.0, "refused": 0.0, "tokens": 0.0}
    assert told["clients"][0]["partition"] == {"key": "alice"}
    assert (told["requests"], told["queue"]["waiting"]) == ([], 0)
    assert str(admin.running.server.port) in told["upstreams"][0]["url"]
    assert KEY not in result.stdout


@pytest.mark.parametrize("arguments", [(), ("--once",)])
def test_in_a_pipe_it_looks_once_and_is_plain(admin: RunningAdmin, arguments: tuple[str, ...]) -> None:
    result = top(admin.url.removeprefix("http://"), *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    assert "1 answered, 0 failed, 1 refused" in result.stdout
    line = next(line for line in result.stdout.splitlines() if line.startswith("alice"))
    assert line.split() == ["alice", "hourly", "10", "%", "9", "of", "10", "requests", *line.split()[8:]]


def test_the_key_may_stand_in_a_file(admin: RunningAdmin, tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    path.write_text(f"{KEY}\n")
    assert top(admin.url, "--once", "--key-file", path, key=None).returncode == 0
    result = top(admin.url, "--once", "--key-file", tmp_path / "none", key=None)
    assert result.returncode == 2
    assert "cannot be read" in result.stderr


def test_without_a_key_it_says_how_to_give_one() -> None:
    result = top("127.0.0.1:1", key=None)
    assert result.returncode == 2
    assert "CORRAL_ADMIN_KEY" in result.stderr
    assert "--key-file" in result.stderr


def test_where_nothing_listens_it_says_what_to_write() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        result = top(f"127.0.0.1:{taken.getsockname()[1]}")
    assert result.returncode == 3
    assert "--admin 127.0.0.1:9464" in result.stderr
    assert '[admin]\n    listen = "127.0.0.1:9464"' in result.stderr


def test_a_wrong_key_is_said_to_be_wrong(admin: RunningAdmin) -> None:
    result = top(admin.url, key="0123456789abcdef")
    assert result.returncode == 2
    assert "does not let this in: The API key is not valid." in result.stderr


def test_a_closed_api_says_how_it_is_opened(start_admin: AdminFactory) -> None:
    admin = start_admin(policy=Policy(auth="none"))
    result = top(admin.url)
    assert result.returncode == 2
    assert "none is configured" in result.stderr


def test_the_clients_address_is_no_admin_api(start_admin: AdminFactory) -> None:
    admin = start_admin(policy=Policy(auth="none", admin=OPEN))
    result = top(f"127.0.0.1:{admin.running.port}")
    assert result.returncode == 3
    assert "is no admin API" in result.stderr


@pytest.mark.parametrize(
    "address", ["http://user:secret@127.0.0.1:9464", "127.0.0.1", "ftp://x:1", "127.0.0.1:9464/metrics"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    result = top(address)
    assert result.returncode == 2
    assert "address" in result.stderr


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel"])
def test_a_key_that_cannot_be_one_is_refused_without_showing_it(key: str) -> None:
    result = top("127.0.0.1:9", key=key)
    assert result.returncode == 2
    assert key not in result.stderr
    assert "Traceback" not in result.stderr


class Terminal:
    """`corral top` on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (40, 120))
        self.before = termios.tcgetattr(slave)
        take = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [sys.executable, "-m", "corral", "top", "--interval", "0.2", *arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-c", take, *command], stdin=slave, stdout=slave, stderr=slave, env=environ(),
            start_new_session=True,
        )  # fmt: skip
        self._slave = slave
        self.shown = ""
        self._seen = 0

    def until(self, text: str) -> None:
        """Read on until `text` is shown, behind what was waited for before."""
        end = time.monotonic() + PATIENCE
        while (found := self.shown.find(text, self._seen)) < 0:
            ready, _, _ = select.select([self._master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{text!r} is not in:\n{self.shown}"
            self.shown += os.read(self._master, 65536).decode(errors="replace")
        self._seen = found + len(text)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait(self) -> int:
        while True:
            ready, _, _ = select.select([self._master], [], [], 0.05)
            if ready:
                self.shown += os.read(self._master, 65536).decode(errors="replace")
            elif self.process.poll() is not None:
                return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.restored = termios.tcgetattr(self._slave) == self.before
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def terminal() -> Iterator[Any]:
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield start
    for one in opened:
        one.close()
        assert one.restored, "the terminal is as it was"


def test_on_a_terminal_it_follows_until_q(admin: RunningAdmin, terminal: Any) -> None:
    view = terminal(admin.url)
    view.until("1 answered")
    view.until("alice")
    view.until("refused/s")
    admin.running.exchange(headers="Authorization: Bearer al1ce\r\n")
    view.until("2 answered")
    view.type(b"x")
    view.type(b"q")
    assert view.wait() == 0
    assert view.shown.rindex("\x1b[?1049l") > view.shown.rindex("\x1b[?1049h"), "the screen is put back"


@pytest.mark.parametrize(("keys", "status"), [(b"\x03", 130), (b"\x04", 0)])
def test_ctrl_c_and_ctrl_d_end_it(admin: RunningAdmin, terminal: Any, keys: bytes, status: int) -> None:
    view = terminal(admin.url)
    view.until("1 answered")
    view.type(keys)
    assert view.wait() == status
    assert "Traceback" not in view.shown
    assert "\x1b[?1049l" in view.shown


def test_a_signal_puts_the_screen_back(admin: RunningAdmin, terminal: Any) -> None:
    view = terminal(admin.url)
    view.until("1 answered")
    view.process.send_signal(signal.SIGTERM)
    assert view.wait() == 128 + signal.SIGTERM
    assert "\x1b[?1049l" in view.shown


def test_a_guard_that_goes_away_is_said_and_asked_again(admin: RunningAdmin, terminal: Any) -> None:
    view = terminal(admin.url)
    view.until("1 answered")
    admin.running.call(admin.server.stop())
    view.until("Nothing listens")
    assert "alice" in view.shown
    admin.running.call(admin.server.start())
    view.until("q ends this")
    view.type(b"q")
    assert view.wait() == 0


def test_who_answers_in_a_guards_place_cannot_steer_the_terminal() -> None:
    body = b'{"detail": "no\\u001b[2J\\u001b]0;title\\u0007"}'
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        result = top(f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join(10)
    assert result.returncode == 2
    assert "does not let this in: no" in result.stderr
    assert "\x1b" not in result.stderr
