"""Budgets that outlive their guard: kept in a file, taken up at start, and never forgiven."""

import logging
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from tests.guard.test_token_quota import body, chat, reports, status

from corral.engine.decision import Deny, Hold
from corral.engine.limit import limits_from
from corral.engine.measures import FREE, MONEY
from corral.guard.budget_file import BudgetFile
from corral.guard.budgets import Budgets
from corral.guard.key_store import StoreError
from corral.guard.resolve import with_budgets
from corral.policy.load import load_policy
from corral.policy.model import Budgets as Where
from corral.policy.model import Policy
from corral.policy.plans import all_limits
from corral.stores import Spent
from corral.stores.memory import MemoryStore

NOON = 1_777_982_400.0  # 2026-05-05 12:00 UTC
TEXT = """
auth = "none"
[generation]
max_tokens = 200
[[limits]]
name = "wallet"
quota = "0.002 usd/day"
per = "everyone"
[[limits]]
name = "month"
quota = "0.003 usd/month"
[price."*"]
input = 1
output = 10
"""


def policy(path: Path) -> Policy:
    return replace(load_policy(text=TEXT), budgets=Where(store=str(path)))


class Life:
    """A store and its budgets between two restarts, in virtual time."""

    def __init__(self, path: Path, wall: float = NOON, now: float = 5.0) -> None:
        self.now, self.wall = now, wall
        limited = policy(path)
        self.store = MemoryStore(limits_from(all_limits(limited)))
        self.who = self.store.bind(("everyone", ("key", "älice\ud800")))
        self.budgets = Budgets.open(limited, self.store)
        self.tick()

    def tick(self) -> None:
        self.store.follow_wall(self.wall - self.now)
        self.budgets.tick(self.now, self.wall)

    def hold(self, money: int) -> Hold | Deny:
        return self.store.hold(self.who, self.now, _costs(money))

    def spend(self, money: int) -> None:
        held = self.hold(money)
        assert isinstance(held, Hold)
        self.store.settle(held, self.now, _costs(money))

    def left(self) -> list[int]:
        return [standing.remaining for standing in self.store.peek(self.who, self.now)]

    def die(self) -> None:
        self.budgets._file.close()


def _costs(money: int) -> tuple[int, ...]:
    return tuple(money if index == MONEY else 0 for index in range(len(FREE)))


def test_a_killed_guard_forgives_nothing_that_ran(tmp_path):
    life = Life(tmp_path / "b.db")
    life.spend(300)
    life.hold(500)
    life.tick()
    life.die()
    assert Life(tmp_path / "b.db").left() == [1200, 2200]


def test_one_that_stops_in_order_has_settled_to_the_millionth(tmp_path):
    life = Life(tmp_path / "b.db")
    held = life.hold(500)
    life.tick()
    life.store.settle(held, life.now, _costs(123))
    life.budgets.close(life.now, life.wall)
    assert Life(tmp_path / "b.db").left() == [1877, 2877]


def test_the_next_day_begins_anew_and_the_file_forgets_the_last(tmp_path):
    life = Life(tmp_path / "b.db")
    life.spend(2000)
    life.tick()
    life.die()
    life = Life(tmp_path / "b.db", wall=NOON + 86_400)
    assert life.left() == [2000, 1000]
    assert [spent.limit for spent in life.budgets._file.read()] == ["month"]
    life.wall += 40 * 86_400
    life.tick()
    assert life.budgets._file.read() == []


def test_what_was_let_go_leaves_no_row(tmp_path):
    life = Life(tmp_path / "b.db")
    held = life.hold(500)
    life.tick()
    assert len(life.budgets._file.read()) == 2
    life.store.settle(held, life.now, FREE)
    life.tick()
    assert life.budgets._file.read() == []


def test_a_second_guard_cannot_use_the_file_and_is_told_what_to_write(tmp_path):
    life = Life(tmp_path / "b.db")
    with pytest.raises(StoreError, match=r"Another guard keeps its budgets in .*budgets\.store"):
        BudgetFile.open(tmp_path / "b.db")
    life.die()
    BudgetFile.open(tmp_path / "b.db").close()


def test_only_its_owner_may_read_it(tmp_path):
    BudgetFile.open(tmp_path / "state" / "b.db").close()
    assert (tmp_path / "state" / "b.db").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    (tmp_path / "state" / "b.db").chmod(0o666)
    with pytest.raises(StoreError, match="chmod 600"):
        BudgetFile.open(tmp_path / "state" / "b.db")


def test_what_is_no_such_file_is_left_alone(tmp_path):
    (tmp_path / "text").write_text("not a database, and long enough to be told from one " * 40)
    with pytest.raises(StoreError, match="cannot be used"):
        BudgetFile.open(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    with pytest.raises(StoreError, match="is no file of spent budgets"):
        BudgetFile.open(tmp_path / "other.db")
    broken = sqlite3.connect(tmp_path / "broken.db")
    broken.execute("PRAGMA application_id = 0x43524C32")
    broken.execute("CREATE TABLE spent (x)")
    broken.commit()
    broken.close()
    limited = policy(tmp_path / "broken.db")
    with pytest.raises(StoreError, match="cannot be read"):
        Budgets.open(limited, MemoryStore(limits_from(all_limits(limited))))
    with pytest.raises(StoreError, match="cannot be made"):
        BudgetFile.open(tmp_path / "text" / "b.db")


def test_a_disk_that_fails_is_told_once_and_tried_again(tmp_path, caplog):
    life = Life(tmp_path / "b.db")
    life.spend(700)
    whole = life.budgets._file.write

    def fail(spent: list[Spent]) -> None:
        raise sqlite3.OperationalError("disk is full")

    life.budgets._file.write = fail
    with caplog.at_level(logging.ERROR):
        life.tick()
        life.tick()
    assert [record.getMessage() for record in caplog.records] == [
        f"Spent budgets cannot be written to {tmp_path / 'b.db'}: disk is full. It is tried again."
    ]
    life.budgets._file.write = whole
    life.budgets.close(life.now, life.wall)
    assert Life(tmp_path / "b.db").left() == [1300, 2300]


def test_it_is_kept_where_the_policy_says_or_by_default_or_nowhere(tmp_path):
    limited = load_policy(text=TEXT)
    assert with_budgets(limited, tmp_path / "d.db").budgets.store == str(tmp_path / "d.db")
    nowhere = replace(limited, budgets=Where(store=""))
    assert with_budgets(nowhere, tmp_path / "d.db") == nowhere
    assert Budgets.open(nowhere, MemoryStore(limits_from(all_limits(nowhere)))) is None
    assert with_budgets(Policy(), tmp_path / "d.db") == Policy()
    assert not any(tmp_path.iterdir())


def test_the_kill_switch_holds_over_a_restart(start_guard, tmp_path):
    guard = start_guard(reports(1000, 100), policy(tmp_path / "b.db"))
    assert status(guard.exchange(chat(100))) == 200
    guard.settled(1)
    assert status(guard.exchange(chat(100))) == 429
    guard.call(guard.guard.stop(1.0))
    again = start_guard(reports(1000, 100), policy(tmp_path / "b.db"))
    said = again.exchange(chat(1))
    assert status(said) == 429
    assert 'The budget "wallet" of all clients, 0.002 usd per day, is spent.' in body(said)["error"]["message"]
    assert again.server.seen == []


def test_a_store_that_takes_over_is_kept_on(tmp_path):
    life = Life(tmp_path / "b.db")
    life.spend(300)
    life.tick()
    successor = MemoryStore(limits_from(all_limits(policy(tmp_path / "b.db"))))
    successor.follow_wall(life.wall - life.now)
    successor.restore(life.budgets._file.read(), life.now)
    life.budgets.follow(successor)
    life.store = successor
    life.who = successor.bind(("everyone", ("key", "älice\ud800")))
    life.spend(400)
    life.tick()
    life.die()
    assert Life(tmp_path / "b.db").left() == [1300, 2300]
