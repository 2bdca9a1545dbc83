import http.client
import os
import shutil
import sys
from pathlib import Path

import pytest
from benchmarks.cases import CASES
from benchmarks.processes import Process, StartError, accepts, free_port
from benchmarks.sample import WrongAnswer, ask, check
from benchmarks.upstream import compile_upstream, running_upstream

CORE = min(os.sched_getaffinity(0))
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="the upstream is compiled")


@needs_compiler
def test_the_upstream_answers_and_streams_and_ends(tmp_path: Path) -> None:
    with running_upstream(compile_upstream(tmp_path), tmp_path, CORE, unix=False) as upstream:
        assert check(CASES[1], upstream.port).status == 200
        assert check(CASES[2], upstream.port).body.count(b"data: ") == 40
        with pytest.raises(WrongAnswer, match="unexpected status: 200"):
            check(CASES[0], upstream.port)
        assert upstream.process.cpu_seconds() >= 0
    assert not accepts(upstream.port)()


@needs_compiler
def test_the_upstream_keeps_its_connections(tmp_path: Path) -> None:
    with running_upstream(compile_upstream(tmp_path), tmp_path, CORE, unix=False) as upstream:
        connection = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=10)
        for body in (b"{}", b'{"stream":true}', b"{}"):
            connection.request("POST", "/v1/chat/completions", body=body)
            assert connection.getresponse().read().count(b"[DONE]") == (b"stream" in body)
        connection.close()


def test_a_server_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    with (
        Process("it", command, CORE, tmp_path / "log") as process,
        pytest.raises(StartError, match=r"it ended with 1:\nno such thing"),
    ):
        process.wait_for(accepts(free_port()))


def test_a_server_that_ignores_its_end_is_killed(tmp_path: Path) -> None:
    port = free_port()
    code = (
        "import signal, socket; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"s = socket.create_server(('127.0.0.1', {port})); signal.pause()"
    )
    with Process("stubborn", [sys.executable, "-c", code], CORE, tmp_path / "log") as process:
        process.wait_for(accepts(port))
    with pytest.raises(ConnectionRefusedError):
        ask(CASES[0], port)
