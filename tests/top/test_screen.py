"""What is shown is plain text, whatever clients call their models."""

import re
from dataclasses import replace

import pytest
from rich.console import Console

from corral.top.admin_client import Snapshot
from corral.top.rates import Rates, rates
from corral.top.screen import name_of, plain, rows_that_fit, screen

STATUS = {
    "version": "1", "uptime": 90.0, "draining": False, "connections": 1, "running": 1, "max_running": 4, "waiting": 0,
    "max_waiting": 64, "ended": {"answered": 5, "failed": 1, "refused": 7, "refused_by_reason": {}},
    "tokens": {"input": 1, "output": 100},
}  # fmt: skip

SERVER = {"name": "first", "url": "http://x", "up": False, "problem": "connection\x1b[2J refused", "running": 0,
          "slots": 4, "connections": 0}  # fmt: skip


def snapshot(at: float = 0.0, **status: object) -> Snapshot:
    request = {"id": "a-1", "client": "alice", "route": "chat", "model": "\x1b[2Jbad\r\n[red]model" + "x" * 99,
               "state": "running", "age": 4000.0, "tokens": 0, "max_tokens": 0}  # fmt: skip
    return Snapshot(
        at,
        STATUS | status,
        {"counted": 0, "clients": []},
        {"count": 1, "requests": [request]},
        {"waiting": 0, "max_waiting": 64, "clients": []},
        {"upstreams": [SERVER]},
    )


def text(now: Snapshot, found: Rates | None = None, note: str = "") -> str:
    console = Console(width=160, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(screen(now, found, most=5, note=note))
    return capture.get()


def test_a_models_name_moves_no_cursor_and_has_no_markup() -> None:
    shown = text(snapshot(), note="no\x1b[2J")
    assert "\x1b[2J" not in shown
    assert "�[2Jbad��[red]model" in shown
    assert "x" * 50 not in shown


def test_a_server_that_is_away_says_why() -> None:
    assert "down: connection�[2J refused" in text(snapshot())


ENTRY = {"partition": {"key": "alice"}, "limit": "daily", "shadow": False, "unit": "usd", "quota": 20,
         "window": 86400.0, "remaining": 19.999958, "reset": 1.0}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({}, ["alice  daily  0 %", "19.999958 of 20 usd"]),
        ({"unit": "gpu-seconds", "quota": 2, "remaining": 0.0}, ["100 %", "0 of 2 gpu-seconds"]),
        ({"quota": 2000, "remaining": 1000, "unit": "tokens"}, ["1000 of 2000 tokens"]),
        ({"shadow": True}, ["daily (shadow)"]),
        ({"key_prefix": "crl_nsTy77"}, ["alice crl_nsTy77…"]),
    ],
)
def test_a_client_is_shown_with_its_unit_and_its_marks(more: dict[str, object], shown: list[str]) -> None:
    now = replace(snapshot(), clients={"counted": 1, "clients": [ENTRY | more]})
    found = re.sub(r" {2,}", "  ", text(now))
    assert all(part in found for part in shown)


def test_a_drained_guard_is_marked() -> None:
    assert "DRAINING" in text(snapshot(draining=True))
    assert "DRAINING" not in text(snapshot())


def test_rates_are_by_the_second() -> None:
    after = {"answered": 15, "failed": 1, "refused": 27, "refused_by_reason": {}}
    now = snapshot(2.0, uptime=92.0, ended=after, tokens={"input": 1, "output": 300})
    assert rates(snapshot(), now) == Rates(5.0, 10.0, 100.0)
    assert "5.0 admitted/s, 10.0 refused/s" in text(now, rates(snapshot(), now))


def test_there_are_no_rates_over_a_restart_or_of_one_look() -> None:
    assert rates(None, snapshot()) is None
    assert rates(snapshot(), snapshot()) is None
    assert rates(snapshot(), snapshot(1.0, uptime=1.0)) is None


@pytest.mark.parametrize(
    ("partition", "name"),
    [
        ({"key": "alice"}, "alice"),
        ({"address": "::1", "model": "other"}, "address ::1, model other"),
        ({"everyone": "everyone"}, "everyone"),
    ],
)
def test_whom_a_limit_counts_is_named(partition: dict[str, str], name: str) -> None:
    assert name_of(partition) == name


def test_what_is_long_is_cut() -> None:
    assert plain("x" * 41) == "x" * 39 + "…"
    assert rows_that_fit(1) == 3
