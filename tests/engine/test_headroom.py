"""Who is heavy, and what is kept from it: floods are held back for others, and nobody for no one."""

import pytest

from corral.engine.headroom import MEMORY, REMEMBERED, Headroom


class Inside:
    """Clients that keep so many requests inside each, for so long; those that fit run."""

    def __init__(self, places: int) -> None:
        self.headroom: Headroom[tuple[str, int]] = Headroom(places)
        self.now = 0.0

    def enter(self, client: str, requests: int = 1, *, weight: float = 1.0, running: int = 0) -> None:
        for number in range(requests):
            self.headroom.enter((client, number), client, weight, self.now)
            if number < running:
                self.headroom.start((client, number))

    def leave(self, client: str, requests: int = 1) -> None:
        for number in range(requests):
            self.headroom.leave((client, number), self.now)

    def wait(self, seconds: float) -> list[str]:
        changed: list[str] = []
        for _ in range(round(4 * seconds)):
            self.now += 0.25
            changed += self.headroom.divide(self.now)
        return changed


def test_a_flood_is_heavy_at_once_and_leaves_places_to_who_asks_for_little():
    inside = Inside(4)
    inside.enter("one")
    inside.enter("flood", 50, running=3)
    assert inside.wait(1.0) == ["flood"]
    headroom = inside.headroom
    assert headroom.heavy("flood")
    assert not headroom.heavy("one")
    assert headroom.heavy_running == 3
    assert 1 <= headroom.kept <= 3
    assert headroom.heavy_may_start == (4 - headroom.kept > 3)


def test_who_is_alone_has_every_place_however_much_it_asks_for():
    inside = Inside(4)
    inside.enter("alone", 500, running=4)
    inside.wait(60.0)
    assert inside.headroom.kept == 0


def test_floods_among_themselves_have_every_place():
    inside = Inside(4)
    for client in "abc":
        inside.enter(client, 50)
    inside.wait(60.0)
    assert inside.headroom.kept == 0


def test_nobody_is_heavy_while_there_is_enough_for_all():
    inside = Inside(8)
    inside.enter("three", 3)
    inside.enter("four", 4)
    inside.enter("one")
    inside.wait(100.0)
    assert not any(inside.headroom.heavy(client) for client in ("one", "three", "four"))
    assert inside.headroom.kept == 0


@pytest.mark.parametrize(("weight", "kept"), [(1.0, 0), (10.0, 7)])
def test_a_share_is_by_weight(weight, kept):
    """Seven of eight places are more than half of them, but less than what is due to weight 10 beside weight 1."""
    inside = Inside(8)
    inside.enter("flood", 50)
    inside.enter("favoured", 7, weight=weight)
    inside.wait(100.0)
    assert inside.headroom.kept == kept


def test_of_clients_that_all_ask_for_too_much_none_has_places_kept():
    inside = Inside(16)
    for number in (10, 11, 12):
        inside.enter(f"asks-for-{number}", number)
    inside.wait(100.0)
    assert inside.headroom.kept == 0


def test_places_are_kept_for_as_long_as_those_who_ask_for_little_are_remembered():
    inside = Inside(4)
    inside.enter("flood", 50)
    inside.enter("now-and-then")
    inside.wait(0.5)
    inside.leave("now-and-then")
    inside.wait(10.0)
    assert inside.headroom.kept >= 1
    inside.wait(10 * MEMORY)
    assert inside.headroom.kept == 0
    assert inside.headroom.known == 1


def test_one_place_is_never_kept():
    for places in (1, 2, 4, 16):
        inside = Inside(places)
        inside.enter("flood", 200)
        for client in range(200):
            inside.enter(f"client-{client}")
        inside.wait(0.5)
        for client in range(200):
            inside.leave(f"client-{client}")
        inside.wait(2.0)
        assert inside.headroom.heavy("flood")
        assert inside.headroom.kept < places


def test_a_flood_that_has_ended_is_forgiven():
    inside = Inside(4)
    inside.enter("flood", 1000)
    inside.enter("one")
    inside.wait(60.0)
    inside.leave("flood", 1000)
    inside.wait(3 * MEMORY)
    assert not inside.headroom.heavy("flood")


def test_what_more_is_kept_than_is_wanted_grows_with_the_root():
    """Of 64 places, those who want 16 in the mean are kept 16 + 3 × 4."""
    inside = Inside(64)
    inside.enter("flood", 1000)
    for client in range(16):
        inside.enter(f"client-{client}")
    inside.wait(20 * MEMORY)
    assert inside.headroom.kept == 28


def test_memory_is_bounded_whatever_clients_are_invented():
    inside = Inside(4)
    for client in range(5000):
        inside.enter(f"client-{client}")
        inside.leave(f"client-{client}")
    assert inside.headroom.known == REMEMBERED
    inside.wait(1.0)
    assert inside.headroom.known == 0


def test_a_clock_that_runs_backwards_and_a_ticket_that_is_not_known_change_nothing():
    inside = Inside(4)
    inside.now = 100.0
    inside.enter("flood", 50, running=4)
    inside.now = 50.0
    inside.leave("flood", 10)
    inside.leave("flood", 10)
    inside.headroom.leave(("nobody", 0), 60.0)
    assert inside.headroom.divide(60.0) == []
    assert inside.headroom.known == 1
    assert inside.headroom.heavy_running == 0
