"""Several servers: never more than its slots on one, nothing on one that is away, and nobody much busier than others."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from corral.engine.admission import Admission, Running, Waiting
from corral.engine.balance import Balance, Load

MOST_TOKENS = 100.0


def test_the_one_with_the_fewest_outstanding_tokens_is_chosen():
    loads = [Load(2), Load(2), Load(2)]
    balance = Balance(loads)
    for tokens, chosen in ((10, 0), (5, 1), (1, 2), (1, 2), (7, 1)):
        assert balance.choose() == chosen
        balance.take(chosen, tokens)
    assert balance.choose() == 0
    balance.take(0, 1)
    assert balance.choose() == -1


def test_what_needs_no_slot_goes_to_a_usable_server_though_its_slots_are_taken():
    balance = Balance([Load(1), Load(1)])
    balance.take(0, 5)
    balance.take(1, 9)
    assert (balance.choose(), balance.least()) == (-1, 0)
    away = Load(1)
    away.usable = False
    assert Balance([away]).least() == -1


def test_an_idle_server_has_nothing_outstanding_whatever_was_rounded():
    load = Load(3)
    balance = Balance([load])
    for tokens in (0.1, 0.2, 0.3):
        balance.take(0, tokens)
    for tokens in (0.3, 0.1, 0.2):
        balance.give_back(0, tokens)
    assert load.outstanding == 0.0


class Servers(RuleBasedStateMachine):
    """Requests enter and end at random while servers fail, come back and change their slots, as the gateway does it."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = [Load(2), Load(3), Load(1)]
        self.balance = Balance(self.loads, None)
        self.admission: Admission[int] = Admission(self.balance.places, 1000, 1e9)
        self.at: dict[int, int] = {}
        self.tokens: dict[int, float] = {}
        self.waiting: set[int] = set()
        self.now = 0.0
        self.next = 0

    def place(self, tickets):
        for ticket in tickets:
            self.waiting.discard(ticket)
            usable = [load for load in self.loads if load.usable and load.running < load.slots]
            place = self.balance.choose()
            assert place >= 0, "who has a place finds a server"
            load = self.loads[place]
            assert load.usable
            assert load.running < load.slots
            assert all(load.outstanding <= other.outstanding for other in usable)
            self.balance.take(place, self.tokens[ticket])
            self.at[ticket] = place

    def resize(self):
        self.place(self.admission.set_places(self.balance.places, self.now))

    @rule(tokens=st.floats(0, MOST_TOKENS), client=st.sampled_from("abc"))
    def enter(self, tokens, client):
        ticket, self.next = self.next, self.next + 1
        self.tokens[ticket] = tokens
        outcome = self.admission.enter(ticket, self.now, client=client)
        if isinstance(outcome, Running):
            self.place([ticket])
        else:
            assert isinstance(outcome, Waiting)
            self.waiting.add(ticket)

    @precondition(lambda self: self.at)
    @rule(data=st.data())
    def leave(self, data):
        ticket = data.draw(st.sampled_from(sorted(self.at)))
        before = self.balance.places
        fewer = self.balance.give_back(self.at.pop(ticket), self.tokens.pop(ticket))
        assert fewer == (self.balance.places < before)
        if fewer:
            self.resize()
        self.place(self.admission.abandon(ticket, self.now))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data):
        ticket = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.remove(ticket)
        assert self.admission.abandon(ticket, self.now) == []

    @rule(place=st.integers(0, 2))
    def goes_away_or_comes_back(self, place):
        self.loads[place].usable = not self.loads[place].usable
        self.resize()

    @rule(place=st.integers(0, 2), slots=st.integers(1, 4))
    def was_started_with_other_slots(self, place, slots):
        self.loads[place].slots = slots
        self.resize()

    @invariant()
    def all_is_counted(self):
        assert self.admission.running == len(self.at)
        assert self.admission.waiting == len(self.waiting)
        for place, load in enumerate(self.loads):
            there = [ticket for ticket, at in self.at.items() if at == place]
            assert load.running == len(there)
            assert abs(load.outstanding - sum(self.tokens[ticket] for ticket in there)) < 1e-6

    @invariant()
    def nobody_waits_while_a_usable_server_has_a_free_slot(self):
        if self.waiting:
            assert all(load.running >= load.slots for load in self.loads if load.usable)


class Bounded(Servers):
    """The same with a maximum in all."""

    def __init__(self) -> None:
        super().__init__()
        self.balance = Balance(self.loads, 4)
        self.admission.set_places(self.balance.places, self.now)

    @rule(place=st.integers(0, 2))
    def leave(self, place):
        for ticket, at in list(self.at.items()):
            if at == place:
                before = self.balance.places
                if self.balance.give_back(self.at.pop(ticket), self.tokens.pop(ticket)):
                    self.resize()
                assert self.balance.places <= before
                self.place(self.admission.abandon(ticket, self.now))
                break

    @invariant()
    def no_more_run_than_the_maximum(self):
        assert len(self.at) <= 4

    @invariant()
    def nobody_waits_while_a_usable_server_has_a_free_slot(self):
        if self.waiting and len(self.at) < 4:
            assert all(load.running >= load.slots for load in self.loads if load.usable)


TestServers = Servers.TestCase
TestBounded = Bounded.TestCase
