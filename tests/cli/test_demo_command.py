"""`corral demo`, interrupted."""

import signal

import pytest

from running_commands import Start

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_says_so(corral: Start, number: int) -> None:
    command = corral("demo")
    command.said("Scanning it")
    command.signal(number)
    assert command.wait() == 128 + number
    assert "The demo was interrupted; its servers have ended." in command.errors
    assert "Traceback" not in command.errors
