"""Being throttled: what is waited for, how long, and what is said in the end."""

import asyncio

import pytest

from corral.scan import patience as module
from corral.scan.observation import Observation
from corral.scan.patience import Patience


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", lambda: clock.now)
    monkeypatch.setattr(module.asyncio, "sleep", clock.sleep)
    return clock


def refused(after: str = "6") -> Observation:
    return Observation("POST", 429, {"retry-after": after} if after else {})


def sends(*answers: Observation):
    left = list(answers)

    async def send() -> Observation:
        return left.pop(0) if len(left) > 1 else left[0]

    return send


def hear(patience: Patience, *answers: Observation) -> Observation:
    return asyncio.run(patience.until_heard(sends(*answers)))


def test_a_refusal_is_borne_as_long_as_it_says(clock):
    patience = Patience(lambda: 120.0)
    assert hear(patience, refused("7"), Observation("POST", 200)).status == 200
    assert clock.slept == [7.0]
    assert patience.told() == ""


def test_a_refusal_that_does_not_say_is_borne_for_a_moment(clock):
    assert hear(Patience(lambda: 120.0), refused(""), Observation("POST", 401)).status == 401
    assert clock.slept == [2.0]


def test_a_wait_beyond_the_bound_is_not_begun(clock):
    patience = Patience(lambda: 120.0, longest=10.0)
    assert hear(patience, refused("11")).status == 429
    assert clock.slept == []
    assert "1 request stayed refused" in patience.told()
    assert "scan again" in patience.told()


def test_a_wait_leaves_time_for_the_probes(clock):
    assert hear(Patience(lambda: 35.0), refused("6")).status == 429
    assert clock.slept == []


def test_the_bound_is_the_whole_scans(clock):
    patience = Patience(lambda: 120.0, longest=10.0)
    assert [hear(patience, refused("6"), Observation("", 200)).status for _ in range(2)] == [200, 429]
    assert patience.waited == 6.0
    assert "though the scan waited 6 s" in patience.told()


def test_it_says_how_long_to_wait_where_that_is_long(clock):
    patience = Patience(lambda: 120.0)
    hear(patience, refused("900"))
    assert "Wait 900 s and scan again." in patience.told()


def test_an_endless_refusal_is_given_up(clock):
    assert hear(Patience(lambda: 120.0), refused("1")).status == 429
    assert len(clock.slept) == 3


def test_those_who_wait_take_turns(clock):
    allowed = 0

    async def limited() -> Observation:  # one request every six seconds
        nonlocal allowed
        if clock.now >= 100.0 + 6 * (allowed + 1):
            allowed += 1
            return Observation("", 200)
        return refused("6")

    async def all_of_them():
        patience = Patience(lambda: 120.0)
        return await asyncio.gather(*(patience.until_heard(limited) for _ in range(4)))

    assert [seen.status for seen in asyncio.run(all_of_them())] == [200] * 4
    assert clock.slept == [6.0] * 4
