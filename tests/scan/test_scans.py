"""Whole scans: of the real server, of a guard, and of servers that mean harm."""

import asyncio
import json
from dataclasses import replace
from hashlib import sha256

import pytest
from typer.testing import CliRunner

from corral.cli import app
from corral.errors import TargetError
from corral.policy.model import ApiKey, Generation, Policy, Upstream
from corral.scan import scan
from corral.scan.finding import Verdict
from corral.scan.report.json import as_json
from scripted_targets import serving


def verdicts(report) -> dict[str, str]:
    return {finding.check: finding.verdict.value for finding in report.findings}


@pytest.mark.e2e
def test_the_bare_server_fails(llama_server):
    report = scan(llama_server.url)
    assert report.grade == "F"
    assert report.server == "llama-server"
    said = verdicts(report)
    for check in ("auth.missing", "rate.burst", "tokens.unbounded", "input.malformed", "expose.state", "signal.headers",
                  "proto.oversize", "input.empty"):  # fmt: skip
        assert said[check] == "vulnerable", (check, report.findings)
    assert report.spent.requests <= 200


@pytest.mark.e2e
def test_the_guarded_server_passes_from_both_sides(llama_server, start_guard):
    policy = Policy(
        auth="keys",
        keys=(ApiKey(name="scanner", sha256=sha256(b"scanner-key").hexdigest()),),
        generation=Generation(max_tokens=64),
        upstream=replace(Upstream(), url=llama_server.url),
    )
    guard = start_guard(policy=policy)
    url = f"http://127.0.0.1:{guard.port}"
    with_key = scan(url, key="scanner-key")
    assert with_key.grade in ("A", "A+"), verdicts(with_key)
    assert Verdict.VULNERABLE not in {finding.verdict for finding in with_key.findings}
    without = scan(url)
    assert without.grade in ("A", "A+"), verdicts(without)


@pytest.mark.e2e
def test_the_command_prints_its_report(llama_server):
    result = CliRunner().invoke(app, ["scan", llama_server.url, "--json", "--fail-on", "critical"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["grade"] == "F"
    assert {"id", "verdict", "severity", "evidence"} <= set(report["checks"][0])
    assert set(report["spent"]) == {"requests", "tokens", "seconds"}


def test_a_target_that_is_not_there_is_an_error(free_port):
    with pytest.raises(TargetError, match="does not answer"):
        scan(f"http://127.0.0.1:{free_port}", timeout=2)


def test_the_budget_bounds_the_requests():
    count = 0

    async def empty(reader, writer):
        nonlocal count
        while await reader.readuntil(b"\r\n\r\n"):
            count += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")

    with serving(empty) as url:
        report = scan(url, budget_requests=12)
    assert report.spent.requests <= 12
    assert as_json(report)["spent"]["requests"] <= 12


async def endless(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await writer.drain()


async def nonsense(reader, writer):
    await reader.read(100)
    writer.write(b"\x00\xff nonsense\r\n\r\n" * 50)
    await writer.drain()


async def liar(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1000\r\n\r\nshort")
    await writer.drain()


async def circle(reader, writer):
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /health\r\nContent-Length: 0\r\n\r\n")


async def silent(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(3600)


@pytest.mark.parametrize("handle", [endless, nonsense, liar, circle, silent])
def test_a_hostile_server_neither_hangs_nor_breaks_the_scan(handle):
    with serving(handle) as url:
        try:
            report = scan(url, timeout=1.0, budget_requests=80)
        except TargetError:
            return
    assert report.spent.requests <= 80
    assert report.grade != "A+"


def test_a_server_that_falls_over_ends_the_scan():
    served = 0

    async def dying(reader, writer):
        nonlocal served
        while await reader.readuntil(b"\r\n\r\n"):
            served += 1
            if served > 8:
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")

    with serving(dying) as url:
        report = scan(url, timeout=2.0)
    assert "suffers" in report.stopped
    assert report.not_tested
    assert served < 60
