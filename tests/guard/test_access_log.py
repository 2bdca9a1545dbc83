import json
import os
import stat
import threading
from pathlib import Path

import pytest

from corral.errors import UsageError
from corral.guard.access_log import AccessLog, json_line, text_line
from corral.guard.record import Finished
from corral.policy.model import Log

ANSWERED = Finished(
    at=1_700_000_000.1234,
    request_id="r1",
    client="alice",
    address="192.0.2.1",
    method="POST",
    route="chat.completions",
    status=200,
    refused="",
    limit="",
    stream=True,
    waited=0.0101234,
    first_byte=0.12,
    duration=1.5,
    bytes_in=300,
    bytes_out=4000,
    prompt_tokens=12,
    completion_tokens=64,
    compute_ms=33.5,
    ending="answered",
)
REFUSED = ANSWERED._replace(
    client="",
    address="2001:db8::/64",
    status=429,
    refused="quota-exceeded",
    limit="client",
    waited=0.0,
    first_byte=0.0,
    duration=0.0001,
    prompt_tokens=-1,
    completion_tokens=-1,
    compute_ms=-1.0,
    ending="refused",
)


def test_a_json_line_says_all_that_is_known_in_a_fixed_order() -> None:
    line = json_line(ANSWERED)
    assert line.endswith(b"\n")
    entry = json.loads(line)
    assert list(entry) == ["time", *(name for name in Finished._fields[1:] if name != "trace")]
    assert entry["time"] == "2023-11-14T22:13:20.123Z"
    assert entry["waited"] == 0.010123
    assert {name: entry[name] for name in ("client", "status", "prompt_tokens", "compute_ms")} == {
        "client": "alice", "status": 200, "prompt_tokens": 12, "compute_ms": 33.5,
    }  # fmt: skip


def test_what_the_server_did_not_report_is_null() -> None:
    entry = json.loads(json_line(REFUSED))
    assert (entry["prompt_tokens"], entry["completion_tokens"], entry["compute_ms"]) == (None, None, None)
    assert (entry["refused"], entry["limit"], entry["address"]) == (
        "quota-exceeded",
        "client",
        "2001:db8::/64",
    )


def test_no_value_can_break_a_line() -> None:
    nasty = ANSWERED._replace(client='a\n{"status":200}\r\x1b[2J', method="G\x00T", address="\ud800")
    for line in (json_line(nasty._replace(address="x")), text_line(nasty)):
        assert line.count(b"\n") == 1
        assert not any(byte < 0x20 for byte in line[:-1])
    assert json.loads(json_line(nasty._replace(address="x")))["client"] == nasty.client


def test_a_text_line_is_short() -> None:
    assert text_line(ANSWERED) == b"22:13:20.123 200 POST chat.completions alice 1.500s waited 0.01s 12+64 tokens\n"
    assert text_line(REFUSED) == (
        b"22:13:20.123 429 POST chat.completions 2001:db8::/64 0.000s quota-exceeded client\n"
    )
    left = ANSWERED._replace(status=0, ending="client-left", waited=0.0, completion_tokens=-1)
    assert text_line(left) == b"22:13:20.123 --- POST chat.completions alice 1.500s client-left\n"


def test_lines_reach_the_file_in_order_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog.open(Log(path=str(path)))
    assert log is not None
    for number in range(500):
        log.record(ANSWERED._replace(request_id=str(number)))
    log.close()
    assert [json.loads(line)["request_id"] for line in path.read_text().splitlines()] == [*map(str, range(500))]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert log.dropped == 0


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("before\n")
    log = AccessLog.open(Log(path=str(path), format="text"))
    assert log is not None
    log.record(ANSWERED)
    log.close()
    assert path.read_bytes() == b"before\n" + text_line(ANSWERED)


def test_after_reopen_the_new_file_is_written(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog.open(Log(path=str(path)))
    assert log is not None
    log.record(ANSWERED._replace(request_id="old"))
    path.rename(tmp_path / "access.log.1")
    log.reopen()
    _until(path.exists)
    log.record(ANSWERED._replace(request_id="new"))
    log.close()
    assert b'"new"' in path.read_bytes()
    assert b'"old"' in (tmp_path / "access.log.1").read_bytes() + path.read_bytes()


def test_a_path_that_cannot_be_reopened_keeps_the_old_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "access.log"
    log = AccessLog.open(Log(path=str(path)))
    assert log is not None
    folder.rename(tmp_path / "moved")
    log.reopen()
    log.record(ANSWERED)
    log.close()
    assert (tmp_path / "moved" / "access.log").read_bytes() == json_line(ANSWERED)
    assert "cannot be opened" in capfd.readouterr().err


def test_no_path_is_no_log() -> None:
    assert AccessLog.open(Log(path="")) is None


def test_a_path_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        AccessLog.open(Log(path=str(tmp_path / "none" / "access.log")))


def test_a_pipe_that_nobody_reads_stalls_nothing_and_the_loss_is_logged() -> None:
    reader, writer = os.pipe()
    log = AccessLog(writer, capacity=100)
    for _ in range(5000):  # some 2 MB: far more than a pipe and the buffer hold
        log.record(ANSWERED)
    assert log.dropped >= 4000
    with os.fdopen(reader, "rb") as pipe:
        closer = threading.Thread(target=log.close, args=(10.0,))
        closer.start()
        lines: list[bytes] = []
        while sum(json.loads(line).get("dropped", 1) for line in lines) < 5000:
            lines.append(pipe.readline())
        closer.join()
    os.close(writer)
    assert sum(json.loads(line).get("dropped", 0) for line in lines) == log.dropped


def test_closing_is_bounded_even_when_the_pipe_stands_still() -> None:
    reader, writer = os.pipe()
    log = AccessLog(writer)
    for _ in range(2000):
        log.record(ANSWERED)
    log.close(0.1)
    assert log.dropped > 0
    os.close(reader)  # frees the writer thread
    log._writer.join()
    os.close(writer)


def test_a_reader_that_left_stalls_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log = AccessLog(writer)
    log.record(ANSWERED)
    log.close()
    assert not log._writer.is_alive()
    os.close(writer)


def _until(holds: object) -> None:
    assert callable(holds)
    passed = threading.Event()
    for _ in range(500):
        if holds():
            return
        passed.wait(0.01)
    raise AssertionError("It did not come to pass within 5 s.")
