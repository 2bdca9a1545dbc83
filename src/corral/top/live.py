"""The view that follows a guard on a terminal, until its reader has seen enough."""

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType

from rich.console import Console
from rich.live import Live

from corral.errors import CorralError
from corral.top.admin_client import AdminClient, Snapshot
from corral.top.rates import rates
from corral.top.screen import rows_that_fit, screen

_QUIT = (b"q", b"Q", b"\x04")  # Ctrl-D too


def follow(client: AdminClient, console: Console, interval: float) -> None:
    """Show the guard, anew every `interval` seconds, until q is pressed.

    A guard that does not answer any more is asked again; what was last known of it stays, and why there is nothing new.

    Raises:
        CorralError: the first look fails.

    """
    now = client.look(rows_that_fit(console.height))
    before: Snapshot | None = None
    note = ""
    with _keys() as wait, _ended_by_signal(), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            most = rows_that_fit(console.height)
            shown = screen(now, rates(before, now), most=most, note=note or "q ends this.")
            live.update(shown, refresh=True)
            if wait(interval):
                return
            try:
                before, now, note = now, client.look(most), ""
            except CorralError as error:
                note = str(error)


@contextlib.contextmanager
def _keys() -> Iterator["_Wait"]:
    """Read single keys while this lasts, where there is a keyboard; the terminal is put back as it was."""
    if not sys.stdin.isatty():
        yield _Wait(None)
        return
    descriptor = sys.stdin.fileno()
    saved = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield _Wait(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)


class _Wait:
    """Waits, and tells whether the key was pressed that ends it all."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def __call__(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._descriptor is None:
                time.sleep(left)
                continue
            ready, _, _ = select.select([self._descriptor], [], [], left)
            if ready:
                pressed = os.read(self._descriptor, 64)
                if not pressed or any(key in pressed for key in _QUIT):
                    return True
        return False


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Leave the screen as it was when SIGTERM or SIGHUP ends this, too."""

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    saved = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
