from hashlib import sha256

from corral.guard.authenticator import Authenticator
from corral.guard.credentials import Credential, KeyRing
from corral.guard.logins import Logins
from corral.guard.refusal import Refusal
from corral.policy.model import ApiKey, Quota

KEYS = (ApiKey(name="alice", sha256=sha256(b"right").hexdigest()),)


class CountingAuthenticator(Authenticator):
    """Counts how many keys were looked at."""

    heard = 0

    def verify(self, presented, now):
        self.heard += 1
        return super().verify(presented, now)


def doors() -> tuple[Logins, CountingAuthenticator]:
    return Logins(Quota(10, 60.0)), CountingAuthenticator(KeyRing(KEYS), {})


def wait(outcome: Credential | Refusal) -> float:
    assert isinstance(outcome, Refusal)
    assert outcome.kind == "too_many_failed_logins"
    assert outcome.retry_after is not None
    return outcome.retry_after


def test_of_ten_thousand_guesses_at_once_ten_are_heard():
    logins, authenticator = doors()
    for number in range(10_000):
        logins.check(authenticator, b"guess-%d" % number, "192.0.2.1", 100.0 + number * 1e-4)
    assert authenticator.heard == 10


def test_who_presses_on_is_refused_for_longer_and_longer():
    logins, authenticator = doors()
    now, waits = 100.0, []
    for _ in range(4):
        for number in range(40):
            outcome = logins.check(authenticator, b"guess-%d" % number, "192.0.2.1", now)
        waits.append(wait(outcome))
        now += waits[-1]
    assert waits == [60.0, 120.0, 240.0, 480.0]
    assert isinstance(logins.check(authenticator, b"right", "192.0.2.2", now), Credential), "others are not meant"


def test_who_waits_as_told_is_heard_again_and_gets_in():
    logins, authenticator = doors()
    for number in range(11):
        outcome = logins.check(authenticator, b"guess-%d" % number, "192.0.2.1", 100.0)
    assert wait(outcome) == 6.0
    assert isinstance(logins.check(authenticator, b"right", "192.0.2.1", 106.5), Credential)


def test_who_got_in_before_is_let_in_under_a_penalty():
    logins, authenticator = doors()
    assert isinstance(logins.check(authenticator, b"right", "192.0.2.1", 99.0), Credential)
    for number in range(40):
        outcome = logins.check(authenticator, b"guess-%d" % number, "192.0.2.1", 100.0)
    assert wait(outcome) == 60.0
    assert isinstance(logins.check(authenticator, b"right", "192.0.2.1", 101.0), Credential)
