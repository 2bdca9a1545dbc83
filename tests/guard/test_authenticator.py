"""What a pipeline concludes from credentials, with a clock that the test moves."""

import math
from pathlib import Path

from tests.guard.test_credentials import stored

from corral.dialects import dialect
from corral.engine import limits_from
from corral.guard.authenticator import Authenticator
from corral.guard.caller import Head, Session, Visit
from corral.guard.credentials import EXPIRED, Credential, KeyRing, Rejection
from corral.guard.key_store import KeyStore
from corral.guard.key_watch import KeyWatch
from corral.guard.logins import Logins
from corral.guard.pipeline import Pipeline
from corral.guard.refusal import Refusal
from corral.policy.model import LimitRule, Plan, Policy, Quota
from corral.policy.plans import all_limits
from corral.stores.memory import MemoryStore
from running_guard import api_key

WALL = 1_800_000_000.0


def test_before_the_first_tick_nothing_that_expires_is_let_in():
    authenticator = Authenticator(KeyRing([api_key("alice", "a")], [stored("b", expires=WALL)]))
    assert type(authenticator.recall(b"a", 5.0)) is Credential
    assert authenticator.recall(b"b", 5.0) is EXPIRED
    authenticator.tick(5.0, WALL - 1.0)
    assert type(authenticator.recall(b"b", 5.5)) is Credential
    assert authenticator.recall(b"b", 6.0) is EXPIRED


def test_an_end_is_told_by_the_pipelines_clock():
    authenticator = Authenticator(KeyRing(()))
    authenticator.tick(100.0, WALL)
    assert authenticator.valid_until(Credential("a", "a", None, False, WALL + 7.0)) == 107.0
    assert authenticator.valid_until(Credential("a", "a", None, False, None)) == math.inf


def test_a_wall_clock_that_jumps_makes_everything_be_asked_anew():
    authenticator = Authenticator(KeyRing(()))
    authenticator.tick(100.0, WALL)
    before = authenticator.generation
    authenticator.tick(100.25, WALL + 0.3)
    assert authenticator.generation == before
    authenticator.tick(100.5, WALL + 3600.0)
    assert authenticator.generation == before + 1


def test_a_plan_that_is_not_there_lets_nobody_in_and_is_no_failed_attempt():
    authenticator = Authenticator(KeyRing((), [stored("b", plan="gold"), stored("c", plan="pro")]), {"pro": Plan()})
    outcome = authenticator.recall(b"b", 0.0)
    assert isinstance(outcome, Rejection)
    assert (outcome.kind, outcome.counts) == ("forbidden", False)
    assert '"gold"' in outcome.message
    assert type(authenticator.recall(b"c", 0.0)) is Credential


class Door:
    """A pipeline, one kept-alive connection to it, and its clocks."""

    def __init__(self, policy: Policy, authenticator: Authenticator | None = None) -> None:
        store = MemoryStore(limits_from(all_limits(policy)))
        self.pipeline = Pipeline(
            policy,
            dialect("llamacpp"),
            store,
            Logins(policy.max_failed_logins),
            open_to_all=False,
            check_host=False,
            authenticator=authenticator,
        )
        self.session: Session = self.pipeline.session("192.0.2.1")
        self.now = 100.0
        self.pass_time(0.0)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.pipeline.tick(self.now, WALL + self.now)

    def enter(self, secret: str, session: Session | None = None) -> Visit | Refusal:
        head: Head = {b"host": b"x", b"authorization": f"Bearer {secret}".encode()}
        return self.pipeline.enter(b"POST", b"/v1/chat/completions", head, session or self.session, self.now)

    def said(self, secret: str) -> str:
        outcome = self.enter(secret)
        return outcome.kind if isinstance(outcome, Refusal) else "in"


def test_a_revoked_key_stops_working_on_a_connection_that_is_kept(tmp_path: Path):
    path = tmp_path / "keys.db"
    ring = KeyRing(())
    watch = KeyWatch(path, ring)
    door = Door(Policy(auth="keys"), Authenticator(ring, watch=watch))
    assert door.said("b") == "invalid_api_key"
    with KeyStore.create(path) as store:
        key = stored("b")
        store.add("bob", "b", key.sha256, created=0.0, plan=None, admin=False, expires=None)
        door.pass_time(0.25)
        assert [door.said("b"), door.said("b")] == ["in", "in"]
        store.revoke(store.all()[0], 5.0)
        assert door.said("b") == "in", "nobody has looked yet"
        door.pass_time(0.25)
        assert [door.said("b"), door.said("b")] == ["revoked_api_key", "revoked_api_key"]
    watch.close()


def test_a_key_expires_on_a_connection_that_is_kept_to_the_moment():
    ring = KeyRing((), [stored("b", expires=WALL + 110.0)])
    door = Door(Policy(auth="keys"), Authenticator(ring))
    assert door.said("b") == "in"
    door.now = 109.99
    assert door.said("b") == "in"
    door.now = 110.0
    assert door.said("b") == "expired_api_key"


PLANNED = Policy(
    auth="keys",
    limits=(
        LimitRule(name="client", quota=Quota(1, 60.0)),
        LimitRule(name="all", quota=Quota(5, 60.0), per="everyone"),
    ),
    plan={
        "pro": Plan(limits=(LimitRule(name="pro", quota=Quota(3, 60.0)),), max_tokens=9, models=("big",)),
        "free": Plan(),
    },
)


def test_each_plan_is_counted_by_its_own_limits():
    ring = KeyRing((), [stored("p", "p", plan="pro"), stored("f", "f", plan="free"), stored("n", "n")])
    door = Door(PLANNED, Authenticator(ring, PLANNED.plan))
    assert [door.said("p") for _ in range(4)] == ["in", "in", "in", "quota_exceeded"]
    assert [door.said("f") for _ in range(2)] == ["in", "quota_exceeded"]
    assert [door.said("n") for _ in range(2)] == ["in", "quota_exceeded"]
    refused = door.enter("p")
    assert isinstance(refused, Refusal)
    assert refused.standing is not None
    assert (refused.standing.name, refused.plan) == ("pro", "pro")


def prepared(door: Door, secret: str, body: bytes) -> tuple[Visit, bytes | Refusal]:
    visit = door.enter(secret)
    assert isinstance(visit, Visit)
    return visit, door.pipeline.prepare(visit, {}, body, 0.0)


def test_a_plan_says_which_models_and_how_many_tokens():
    ring = KeyRing((), [stored("p", "p", plan="pro"), stored("n", "n")])
    door = Door(PLANNED, Authenticator(ring, PLANNED.plan))
    chat = b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":100%b}'
    visit, body = prepared(door, "p", chat % b',"model":"big"')
    assert visit.cap == 9
    assert b'"max_tokens":9' in body  # type: ignore[operator]  # bytes
    for other in (b',"model":"small"', b""):
        _, refused = prepared(door, "p", chat % other)
        assert isinstance(refused, Refusal)
        assert (refused.kind, refused.param) == ("forbidden", "model")
        assert "big" in refused.message
    assert prepared(door, "n", chat % b"")[0].cap == 100


def test_a_key_in_the_url_is_refused_though_the_header_is_right():
    door = Door(Policy(auth="keys", keys=(api_key("alice", "a"),)))
    head: Head = {b"authorization": b"Bearer a"}
    outcome = door.pipeline.enter(b"POST", b"/v1/chat/completions?api_key=a", head, door.session, door.now)
    assert isinstance(outcome, Refusal)
    assert outcome.kind == "key_in_url"
    assert "Authorization: Bearer" in outcome.message
    assert door.said("a") == "in"
