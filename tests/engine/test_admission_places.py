"""Places and the queue for them."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from corral.engine.admission import Admission, Refused, Running, Waiting


class Places(RuleBasedStateMachine):
    """Enter, leave and wait at random; keep a simple model beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Admission[int] = Admission(2, 3, 10.0)
        self.running: list[int] = []
        self.queue: list[tuple[int, float]] = []
        self.now = 0.0
        self.next = 0

    @rule(wait=st.floats(0, 6))
    def time_passes(self, wait):
        self.now += wait

    @rule()
    def enter(self):
        ticket, self.next = self.next, self.next + 1
        outcome = self.places.enter(ticket, self.now)
        if len(self.running) < 2:
            assert isinstance(outcome, Running)
            self.running.append(ticket)
        elif len(self.queue) < 3:
            assert outcome == Waiting(self.now + 10.0)
            self.queue.append((ticket, self.now + 10.0))
        else:
            assert isinstance(outcome, Refused)
            assert 1 <= outcome.retry_after <= 20

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data):
        ticket = data.draw(st.sampled_from(self.running))
        started = self.places.abandon(ticket, self.now)
        self.running.remove(ticket)
        expected = [self.queue.pop(0)[0]] if self.queue else []
        assert started == expected
        self.running += started

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def give_up_waiting(self, data):
        entry = data.draw(st.sampled_from(self.queue))
        assert self.places.abandon(entry[0], self.now) == []
        self.queue.remove(entry)

    @rule()
    def expire(self):
        overdue = [ticket for ticket, deadline in self.queue if deadline <= self.now]
        assert self.places.expire(self.now) == overdue
        self.queue = [entry for entry in self.queue if entry[0] not in overdue]

    @rule()
    def abandon_a_stranger(self):
        assert self.places.abandon(-1, self.now) == []

    @invariant()
    def counts_agree(self):
        assert self.places.running == len(self.running) <= 2
        assert self.places.waiting == len(self.queue) <= 3
        assert not self.queue or len(self.running) == 2


TestPlaces = Places.TestCase
TestPlaces.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_the_wait_is_predicted_from_measured_service():
    places: Admission[int] = Admission(1, 5, 60.0)
    for ticket in range(200):
        places.enter(ticket, 10.0 * ticket)
        places.abandon(ticket, 10.0 * ticket + 10.0)
    assert places.expected_wait() == 10.0
