"""Places and the queue for them: nothing is lost, nothing is kept, and nobody fills the queue alone."""

import math
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from corral.engine.admission import Admission, Refused, Running, Waiting
from corral.engine.fairqueue import REMEMBERED

PLACES = 2
MOST = 5
MOST_BYTES = 100
MAX_WAIT = 10.0


class Places(RuleBasedStateMachine):
    """Enter, leave, wait and settle at random; keep a simple model beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Admission[int] = Admission(PLACES, MOST, MAX_WAIT, MOST_BYTES)
        self.clients: dict[int, str] = {}
        self.sizes: dict[int, int] = {}
        self.running: list[int] = []
        self.queue: list[tuple[int, float]] = []
        self.ended: set[int] = set()
        self.refused: set[int] = set()
        self.now = 0.0
        self.next = 0
        self.floor = 0.0

    def waiting_of(self, client):
        return [ticket for ticket, _ in self.queue if self.clients[ticket] == client]

    def bytes_of(self, client):
        return sum(self.sizes[ticket] for ticket in self.waiting_of(client))

    def who_must_go(self, client, size):
        """None where nobody need or may; else the ways in which room can be made."""
        excess = sum(self.sizes[ticket] for ticket, _ in self.queue) + size - MOST_BYTES
        clients = {self.clients[ticket] for ticket, _ in self.queue}
        if excess > 0:
            most = max((self.bytes_of(other) for other in clients), default=0)
            biggest = [other for other in clients if self.bytes_of(other) == most]
            fair = self.bytes_of(client) + size <= most - excess
            gives_way = excess <= most
        else:
            most = max((len(self.waiting_of(other)) for other in clients), default=0)
            biggest = [other for other in clients if len(self.waiting_of(other)) == most]
            fair = len(self.waiting_of(client)) + 1 <= most - 1
            gives_way = True
        ways = []
        for other in biggest:
            if not (gives_way if self.heavy(other) and not self.heavy(client) else fair):
                continue
            tickets, freed = self.waiting_of(other), []
            while excess > sum(self.sizes[ticket] for ticket in freed) or len(self.queue) - len(freed) >= MOST:
                freed.append(tickets.pop())
            ways.append(tuple(freed))
        return ways

    def heavy(self, client):
        return self.places._headroom.heavy(client)

    @property
    def heavy_may_start(self):
        return sum(self.heavy(self.clients[ticket]) for ticket in self.running) < PLACES - self.places._headroom.kept

    def end(self, tickets):
        for ticket in tickets:
            assert ticket not in self.ended
            self.ended.add(ticket)

    @rule(wait=st.sampled_from([0.5, 3.0, 11.0]))
    def time_passes(self, wait):
        self.now += wait

    @rule(
        client=st.sampled_from("abcd"),
        size=st.sampled_from([0, 10, 30, 60, 101]),
        weight=st.sampled_from([0.5, 1.0, 3.0]),
        estimate=st.sampled_from([0.0, 1.0, 50.0]),
    )
    def enter(self, client, size, weight, estimate):
        ticket, self.next = self.next, self.next + 1
        self.clients[ticket], self.sizes[ticket] = client, size
        full = len(self.queue) >= MOST or sum(self.sizes[t] for t, _ in self.queue) + size > MOST_BYTES
        ways = self.who_must_go(client, size) if full else [()]
        runs = len(self.running) < PLACES and (not self.heavy(client) or self.heavy_may_start)
        outcome = self.places.enter(ticket, self.now, client=client, weight=weight, estimate=estimate, size_bytes=size)
        if runs:
            assert isinstance(outcome, Running)
            self.running.append(ticket)
        elif isinstance(outcome, Refused):
            assert not ways
            assert 1 <= outcome.retry_after <= 2 * MAX_WAIT
            self.refused.add(ticket)
        else:
            assert isinstance(outcome, Waiting)
            assert outcome.deadline == self.now + MAX_WAIT
            assert outcome.displaced in ways
            self.end(outcome.displaced)
            self.queue = [entry for entry in self.queue if entry[0] not in outcome.displaced]
            self.queue.append((ticket, outcome.deadline))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), settled=st.none() | st.floats(0, 100))
    def leave(self, data, settled):
        ticket = data.draw(st.sampled_from(self.running))
        if settled is not None:
            self.places.settle(ticket, settled)
        started = self.places.abandon(ticket, self.now)
        self.end([ticket])
        self.running.remove(ticket)
        self.starts(started)

    @rule()
    def follow(self):
        self.starts(self.places.follow(self.now))

    def starts(self, started):
        for following in started:
            assert self.waiting_of(self.clients[following])[0] == following
            self.queue = [entry for entry in self.queue if entry[0] != following]
        self.running += started

    @precondition(lambda self: self.running)
    @rule(data=st.data(), tokens=st.floats(0, 100))
    def charge(self, data, tokens):
        self.places.charge(data.draw(st.sampled_from(self.running)), tokens)

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def give_up_waiting(self, data):
        entry = data.draw(st.sampled_from(self.queue))
        assert self.places.abandon(entry[0], self.now) == []
        self.end([entry[0]])
        self.queue.remove(entry)

    @rule()
    def expire(self):
        overdue = [ticket for ticket, deadline in self.queue if deadline <= self.now]
        assert self.places.expire(self.now) == overdue
        self.end(overdue)
        self.queue = [entry for entry in self.queue if entry[0] not in overdue]

    @rule(data=st.data())
    def name_one_that_has_no_place(self, data):
        ticket = data.draw(st.sampled_from([-1, *sorted(self.ended | self.refused)]))
        self.places.charge(ticket, 1.0)
        self.places.settle(ticket, 1.0)
        assert self.places.abandon(ticket, self.now) == []

    @invariant()
    def every_ticket_is_in_one_state(self):
        waiting = {ticket for ticket, _ in self.queue}
        states = [set(self.running), waiting, self.ended, self.refused]
        assert sum(map(len, states)) == len(set().union(*states)) == self.next

    @invariant()
    def counts_agree(self):
        assert self.places.running == len(self.running) <= PLACES
        assert self.places.waiting == len(self.queue) <= MOST
        assert self.places.waiting_bytes == sum(self.sizes[ticket] for ticket, _ in self.queue) <= MOST_BYTES

    @invariant()
    def a_free_place_is_kept_from_heavy_clients_alone(self):
        assert 0 <= self.places._headroom.kept < PLACES
        if self.queue and len(self.running) < PLACES:
            assert all(self.heavy(self.clients[ticket]) for ticket, _ in self.queue)
            assert not self.heavy_may_start

    @invariant()
    def who_is_inside_is_counted(self):
        headroom = self.places._headroom
        if self.places._watched:
            inside = [self.clients[ticket] for ticket in [*self.running, *(ticket for ticket, _ in self.queue)]]
            assert {client: demand.inside for client, demand in headroom._present.items()} == Counter(inside)
            running = [self.clients[ticket] for ticket in self.running]
            assert headroom.heavy_running == sum(self.heavy(client) for client in running)
        else:
            assert not headroom.known

    @invariant()
    def only_who_waits_or_runs_has_an_account(self):
        queue = self.places._queue
        inside = {self.clients[ticket] for ticket in [*self.running, *(ticket for ticket, _ in self.queue)]}
        assert queue._accounts.keys() <= inside
        assert not queue._gone.keys() & queue._accounts.keys()
        waiting = {self.clients[ticket] for ticket, _ in self.queue}
        for ranking in (queue._by_counter, queue._by_service, queue._by_count, queue._by_size):
            assert {account.client for account in ranking._entries} == waiting
        light = {client for client in waiting if not self.heavy(client)}
        assert {account.client for account in queue._light._entries} == light

    @invariant()
    def what_is_held_is_what_the_running_hold(self):
        queue = self.places._queue
        for account in queue._accounts.values():
            held = sum(request.held for request in queue._running.values() if request.account is account)
            assert math.isclose(account.held, held, abs_tol=1e-6)

    @invariant()
    def the_floor_never_falls(self):
        floor = self.places._queue._floor()
        assert floor >= self.floor
        self.floor = floor


TestPlaces = Places.TestCase
TestPlaces.settings = settings(max_examples=120, stateful_step_count=50, deadline=None, derandomize=True)


def waits(outcome: object) -> tuple[float, tuple[str, ...]]:
    assert isinstance(outcome, Waiting)
    return outcome.deadline, outcome.displaced


def test_the_wait_is_predicted_from_measured_service():
    places: Admission[int] = Admission(1, 5, 60.0)
    for ticket in range(200):
        places.enter(ticket, 10.0 * ticket, client="a")
        places.abandon(ticket, 10.0 * ticket + 10.0)
    assert places.expected_wait() == 10.0
    places.enter(1000, 2000.0, client="a")
    places.enter(1001, 2000.0, client="a")
    assert places.expected_wait() == 20.0


def test_one_client_is_served_first_come_first_served():
    places: Admission[int] = Admission(1, 5, 60.0)
    for ticket in range(5):
        places.enter(ticket, 0.0, client="a", estimate=float(ticket % 3))
    assert [places.abandon(ticket, 1.0) for ticket in range(5)] == [[1], [2], [3], [4], []]


def test_a_flood_by_one_client_does_not_keep_others_out_of_the_queue():
    places: Admission[str] = Admission(1, 4, 60.0)
    for number in range(5):
        places.enter(f"flood-{number}", 0.0, client="flood")
    assert isinstance(places.enter("flood-5", 1.0, client="flood"), Refused)
    assert waits(places.enter("a-0", 1.0, client="a")) == (61.0, ("flood-4",))
    assert waits(places.enter("b-0", 1.0, client="b")) == (61.0, ("flood-3",))
    assert isinstance(places.enter("flood-6", 1.0, client="flood"), Refused)
    assert places.abandon("flood-4", 1.0) == []
    assert places.waiting == 4


def test_clients_that_hold_one_each_do_not_push_each_other_out():
    places: Admission[str] = Admission(1, 3, 60.0)
    for client in "xabc":
        places.enter(client, 0.0, client=client)
    assert isinstance(places.enter("d", 1.0, client="d"), Refused)
    assert places.waiting == 3


def test_a_flood_of_bytes_gives_way_to_a_small_request():
    places: Admission[str] = Admission(1, 10, 60.0, max_waiting_bytes=100)
    places.enter("running", 0.0, client="flood", size_bytes=40)
    places.enter("small", 0.0, client="b", size_bytes=1)
    places.enter("flood-0", 0.0, client="flood", size_bytes=49)
    places.enter("flood-1", 0.0, client="flood", size_bytes=10)
    places.enter("flood-2", 0.0, client="flood", size_bytes=40)
    assert isinstance(places.enter("flood-3", 1.0, client="flood", size_bytes=1), Refused)
    assert waits(places.enter("a", 1.0, client="a", size_bytes=45)) == (61.0, ("flood-2", "flood-1"))
    assert isinstance(places.enter("huge", 1.0, client="c", size_bytes=101), Refused)
    assert places.waiting_bytes == 95


def test_memory_is_bounded_whatever_clients_are_invented():
    places: Admission[int] = Admission(1, 4, 60.0)
    running, known = 0, 0
    places.enter(0, 0.0, client="steady", estimate=1e9)
    places.enter(1, 0.0, client="steady")
    for ticket in range(2, 5000):
        places.enter(ticket, 0.0, client=ticket, estimate=5.0)
        [running] = places.abandon(running, 0.0)
        known = max(known, places.known_clients)
    assert 2 <= known <= REMEMBERED + 1 + 4


def test_clients_that_come_and_go_while_there_is_room_leave_no_trace():
    places: Admission[int] = Admission(2, 4, 60.0)
    for ticket in range(1000):
        places.enter(ticket, 0.0, client=ticket)
        places.abandon(ticket, 1.0)
    assert places.known_clients == 0
    assert places.running == 0
