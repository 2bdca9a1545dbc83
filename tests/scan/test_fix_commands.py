"""The commands that a report prints: they can be pasted, and start a guard that can work."""

import shlex

import click
import pytest
import typer.main

from corral.cli import app
from corral.cli.serving import Flags, build_policy
from corral.policy.address import parse_endpoint
from corral.scan.checks import CHECKS
from corral.scan.report.fix import fix_command, guard_command


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
@pytest.mark.parametrize(
    "target",
    [
        "http://localhost:8080",
        "http://127.0.0.1:11434",
        "http://[::1]:65535",
        "http://192.0.2.7",
        "https://192.0.2.7/llm",
    ],
)
def test_every_fix_starts_a_guard_in_front_of_what_was_scanned(check, target):
    program, name, *words = shlex.split(fix_command(check, target))
    assert (program, name) == ("corral", "guard")
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]  # a group
    given = command.make_context(name, words, parent=click.Context(command)).params
    upstream = given.pop("upstream")
    given.pop("quiet")
    given.pop("authz")
    policy = build_policy(Flags(**given), {}, upstream=upstream)
    listen = parse_endpoint(policy.listen.address)
    assert policy.upstream.url.startswith("http://")
    assert policy.upstream.url.rpartition(":")[2] != str(listen.port)


def test_the_guard_answers_whom_the_server_answered():
    assert guard_command("http://localhost:8080") == "corral guard http://localhost:8080 --listen 127.0.0.1:8081"
    assert guard_command("http://192.0.2.7:8080") == "corral guard http://192.0.2.7:8080 --listen :8081"
    assert guard_command("http://192.0.2.7") == "corral guard http://192.0.2.7:80 --listen :8080"


def test_a_shell_reads_an_ipv6_address_as_it_is():
    assert guard_command("http://[::1]:8080") == "corral guard 'http://[::1]:8080' --listen 127.0.0.1:8081"
