"""`corral scan`: how it ends, and what it prints when it cannot scan."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import corral
from corral.cli import app
from corral.cli.scan import scan
from scripted_targets import answering


def run(*arguments: str):
    return CliRunner().invoke(app, ["scan", *arguments], env={"COLUMNS": "200", "CORRAL_API_KEY": ""})


def open_to_all(method, path, _headers, _body):
    if path == "/v1/models":
        return 200, {}, '{"data":[{"id":"tiny"}]}'
    return 200, {}, "{}"


def test_a_failed_scan_prints_its_error_as_json_too(free_port):
    url = f"http://127.0.0.1:{free_port}"
    result = run(url, "--json", "--timeout", "2")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {"target": url, "error": f"{url} does not answer: connection refused."}


def test_a_usage_error_is_printed_as_json_too():
    result = run("http://127.0.0.1:1", "--json", "--fail-on", "terrible")
    assert result.exit_code == 2
    assert "is no severity" in json.loads(result.stdout)["error"]


def test_a_scan_without_a_grade_ends_with_3():
    with answering(open_to_all) as url:
        result = run(url, "--budget-requests", "5")
        assert result.exit_code == 3
        assert "Grade ?" in result.stdout
        assert "No grade: rate.burst and tokens.unbounded could not be told" in result.stdout
        as_json = run(url, "--budget-requests", "5", "--json")
    report = json.loads(as_json.stdout)
    assert as_json.exit_code == 3
    assert report["grade"] is None
    assert report["error"] is None


def test_the_report_prints_fixes_that_can_be_pasted():
    with answering(open_to_all) as url:
        printed = run(url).stdout
    port = int(url.rpartition(":")[2])
    assert f"fix: corral guard {url} --listen 127.0.0.1:{port + 1} --rate-limit 30 --rate-window 60\n" in printed


def test_help_and_error_name_the_same_severities():
    shown = re.sub(r"\W+", " ", run("--help").stdout)
    named = "info low medium high or critical"
    assert named in shown
    result = run("http://127.0.0.1:1", "--json", "--fail-on", "x")
    assert named in json.loads(result.stdout)["error"].replace(",", "")


def test_the_help_says_what_a_scan_costs():
    assert "110 requests and 1,600 tokens" in (scan.__doc__ or "")


def run_unread(*arguments: str, cwd: Path) -> tuple[int, bytes]:
    """Run a command whose standard output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    source = Path(corral.__file__).parent.parent
    process = subprocess.run(
        [sys.executable, "-m", "corral", *arguments],
        stdout=writing, stderr=subprocess.PIPE, cwd=cwd, check=False, timeout=60, env={**os.environ, "PYTHONPATH": str(source)},
    )  # fmt: skip
    os.close(writing)
    return process.returncode, process.stderr


@pytest.mark.parametrize("arguments", [("--json",), ()])
def test_a_reader_that_leaves_is_no_failure(tmp_path, arguments):
    with answering(open_to_all) as url:
        assert run_unread("scan", url, "--budget-requests", "5", *arguments, cwd=tmp_path) == (141, b"")
    (tmp_path / "corral.toml").write_text("")
    assert run_unread("check", *arguments, cwd=tmp_path) == (141, b"")
