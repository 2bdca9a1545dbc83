"""`corral run`, with the real llama-server: what it guards, and that it leaves nothing behind."""

import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from running_commands import Command, Start, wait_for_end

pytestmark = pytest.mark.e2e

STALLS = ("time.sleep(600)",)
LOADS_FOREVER = (
    "server = socket.socket(socket.AF_UNIX); server.bind(path); server.listen()",
    "while True:",
    "    connection, _ = server.accept()",
    "    connection.recv(65536)",
    "    connection.sendall(b'HTTP/1.1 503 Loading\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n')",
    "    connection.close()",
)
Fake = Callable[[Sequence[str]], Path]


@pytest.fixture
def started(corral: Start, server_program: str, tiny_model: Path) -> Command:
    """The real server, guarded."""
    return corral("run", "--max-tokens", "64", "--", server_program, "--port", "0", "-m", tiny_model, "-np", "2")


def ask(url: str, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/completion", json={"prompt": "hi", "n_predict": 2, **body}, trust_env=False, timeout=30)


def listening_ports(pid: int) -> set[int]:
    """The TCP ports that a process listens on."""
    sockets = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


def test_the_seed_command_line_works(corral: Start, server_program: str, tiny_model: Path) -> None:
    command = corral(
        "run", "--", server_program, "--host", "127.0.0.1", "--port", "0", "--model", tiny_model,
        "--max-tokens", "20", "--rate-limit", "3", "--rate-window", "60",
    )  # fmt: skip
    answers = [ask(command.url, n_predict=100_000) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].json()["tokens_predicted"] == 20
    refusal = answers[3].headers
    assert 0 < int(refusal["Retry-After"]) <= 60
    assert "q=3;w=60" in refusal["RateLimit-Policy"]
    assert refusal["X-RateLimit-Limit"] == "3"


def test_the_server_can_be_reached_through_the_guard_alone(started: Command) -> None:
    assert ask(started.url).status_code == 200
    assert listening_ports(started.child) == set()
    assert list(started.runtime.iterdir()) == []


def test_as_many_requests_run_as_the_server_has_slots(started: Command) -> None:
    started.said("At most 2 requests run at once")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_both_with_the_servers_status(started: Command, number: int) -> None:
    assert ask(started.url).status_code == 200
    gone = wait_for_end(started.child)
    started.signal(number)
    assert started.wait() == 0
    gone()
    assert list(started.runtime.iterdir()) == []


def test_a_hang_up_ends_nothing_where_there_is_nothing_to_reload(started: Command) -> None:
    assert ask(started.url).status_code == 200
    child = started.child
    started.signal(signal.SIGHUP)
    started.said("There is nothing to reload")
    assert (ask(started.url).status_code, started.child) == (200, child)


def test_when_corral_is_killed_nothing_is_left(started: Command) -> None:
    assert ask(started.url).status_code == 200
    gone = wait_for_end(started.child)
    started.signal(signal.SIGKILL)
    assert started.wait() == 128 + signal.SIGKILL
    gone()
    assert list(started.runtime.iterdir()) == []


def test_when_the_server_crashes_the_guard_ends_with_its_status(started: Command) -> None:
    assert ask(started.url).status_code == 200
    os.kill(started.child, signal.SIGSEGV)
    assert started.wait() == 128 + signal.SIGSEGV
    assert "The server was killed by SIGSEGV; the guard ends with it." in started.errors


def streamed(url: str, tokens: int) -> Iterator[dict[str, Any]]:
    body = {"prompt": "hi", "n_predict": tokens, "stream": True}
    with httpx2.stream("POST", f"{url}/completion", json=body, trust_env=False, timeout=30) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])


def test_a_running_stream_may_finish(started: Command) -> None:
    events = streamed(started.url, 64)
    next(events)
    started.signal(signal.SIGTERM)
    started.said("1 running request may finish, within 30 seconds. A second signal ends everything at once")
    assert list(events)[-1]["tokens_predicted"] == 64
    assert started.wait() == 0


def test_a_second_signal_ends_everything_at_once(corral: Start, server_program: str, tiny_model: Path) -> None:
    command = corral("run", "--max-tokens", "4000", "--", server_program, "--port", "0", "-m", tiny_model)
    events = streamed(command.url, 4000)
    next(events)
    gone = wait_for_end(command.child)
    command.signal(signal.SIGINT)
    command.said("A second Ctrl-C ends everything at once")
    command.signal(signal.SIGINT)
    assert command.wait() == 128 + signal.SIGKILL
    gone()
    rest = []
    with contextlib.suppress(httpx2.HTTPError):  # it may be told by an event that the server is gone, or be cut
        rest += events
    assert not any(event.get("stop") for event in rest)


def test_a_wrong_model_ends_it_with_the_servers_status(corral: Start, server_program: str) -> None:
    command = corral("run", "--", server_program, "--port", "0", "-m", "no-such-model.gguf")
    assert command.wait() == 1
    assert "The server ended with status 1 before it was ready" in command.errors
    assert list(command.runtime.iterdir()) == []


def test_without_a_model_it_is_no_server_that_can_be_guarded(corral: Start, server_program: str) -> None:
    command = corral("run", "--", server_program, "--port", "0")
    assert command.wait() == 3
    assert "Name one model with -m" in command.errors


@pytest.mark.parametrize("behaviour", [STALLS, LOADS_FOREVER])
def test_a_server_that_never_gets_ready_is_ended(corral: Start, fake_server: Fake, behaviour: Sequence[str]) -> None:
    command = corral("run", "--start-timeout", "1", "--", fake_server(behaviour), "--port", "0", "-m", "x")
    assert command.wait() == 3
    assert "not ready after 1 seconds" in command.errors
    assert list(command.runtime.iterdir()) == []


def test_a_signal_ends_a_server_that_is_still_loading(corral: Start, fake_server: Fake) -> None:
    command = corral("run", "--", fake_server(LOADS_FOREVER), "--port", "0", "-m", "x")
    command.said("loading its model")
    gone = wait_for_end(command.child)
    command.signal(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM
    gone()
    assert list(command.runtime.iterdir()) == []


def test_corral_killed_while_loading_takes_the_server_along(corral: Start, fake_server: Fake) -> None:
    program = fake_server(("print('started', file=sys.stderr, flush=True)", *STALLS))
    command = corral("run", "--", program, "--port", "0", "-m", "x")
    command.said("started")
    gone = wait_for_end(command.child)
    command.signal(signal.SIGKILL)
    command.wait()
    gone()


def test_what_the_server_started_ends_with_it(corral: Start, fake_server: Fake) -> None:
    program = fake_server(
        (
            "child = os.fork()",
            "if child: print('grandchild', child, file=sys.stderr, flush=True); os.waitpid(child, 0)",
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
            *STALLS,
        )
    )
    command = corral("run", "--", program, "--port", "0", "-m", "x")
    gone = wait_for_end(int(command.said(r"grandchild (\d+)").group(1)))
    command.signal(signal.SIGTERM)
    command.wait()
    gone()


def test_an_address_in_use_is_found_before_a_model_is_loaded(corral: Start, fake_server: Fake) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = corral("run", "--", fake_server(("print('started', file=sys.stderr)",)), "--port", port, "-m", "x")
        assert command.wait() == 3
    assert re.search(f"127.0.0.1:{port}.*in use", command.errors)
    assert "started" not in command.errors


def test_a_program_that_is_not_there_is_found_out_before_an_address_in_use(corral: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = corral("run", "--", "./llama-server", "--port", str(taken.getsockname()[1]), "-m", "x")
        assert command.wait() == 2
    assert "no program './llama-server'" in command.errors
    assert "in use" not in command.errors


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_what_only_tells_something_ends_well(corral: Start, server_program: str, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = corral("run", "--", server_program, "--port", str(taken.getsockname()[1]), option)
        assert command.wait() == 0
    assert "corral:" not in command.errors
    assert list(command.runtime.iterdir()) == []


def test_a_server_that_ends_well_before_it_is_ready_is_no_error(corral: Start, fake_server: Fake) -> None:
    command = corral("run", "--", fake_server(("sys.exit(0)",)), "--port", "0", "-m", "x")
    assert command.wait() == 0
    assert command.errors == ""


def test_the_servers_keys_are_the_guards(corral: Start, server_program: str, tiny_model: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# people\nsecond\n")
    command = corral(
        "run", "--", server_program, "--port", "0", "-m", tiny_model, "--api-key", "first", "--api-key-file", keys
    )
    url = command.url
    assert ask(url).status_code == 401
    for key in ("first", "second"):
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx2.post(
            f"{url}/completion", json={"prompt": "x", "n_predict": 1}, headers=headers, trust_env=False
        )
        assert answer.status_code == 200
    assert "first" not in command.errors.split("Listens on")[0]
    assert b"first" not in Path(f"/proc/{command.child}/cmdline").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Say which server to start"),
        (("--", "ollama", "serve"), "corral guard"),
        (("--", "./llama-server", "-m", "x"), "no program './llama-server'"),
        (("--rate-window", "5", "--", "llama-server", "-m", "x"), "--rate-limit"),
        (("--policy", "none.toml", "--", "llama-server", "-m", "x"), "none.toml does not exist"),
        (("--", "llama-server", "--port", "0", "--ssl-key-file", "k.pem", "-m", "x"), "belong together"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(corral: Start, arguments: Sequence[str], said: str) -> None:
    command = corral("run", *arguments)
    assert command.wait() == 2
    command.said(re.escape(said))
    assert "Traceback" not in command.errors
