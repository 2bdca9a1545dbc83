"""Places that were kept for others are given to who waits, once these have been away: by the clock, without a request."""

import asyncio
from types import SimpleNamespace

from corral.guard.door import Door
from corral.guard.gateway.exchange import Exchange
from corral.guard.service import Guard
from corral.policy.model import Concurrency, HealthChecks, Listen, Log, Policy

POLICY = Policy(
    auth="none",
    listen=Listen(address="127.0.0.1:0"),
    log=Log(path=""),
    concurrency=Concurrency(max_running=2, max_wait=10_000.0),
    health=HealthChecks(failures=1000, interval=600.0, pause=600.0, max_pause=600.0),  # there is no server
)


def hold_back(admission, now, ticket):
    """Let a flood wait beside a free place, as if others had been there some minutes ago. Returns who waits."""
    then = now - 1000.0
    flood = [ticket() for _ in range(20)]
    for one in flood:
        admission.enter(one, then, client="flood")
    honest = ticket()
    admission.enter(honest, then + 5.0, client="honest")
    assert admission.abandon(flood[0], then + 5.5) == [honest]
    assert admission.abandon(flood[1], then + 6.0) == [flood[2]]
    assert admission.abandon(honest, then + 6.5) == []
    assert admission.running == 1
    assert admission.waiting == 17
    return flood[3]


def test_a_door_gives_them_out_when_it_looks_at_the_clock():
    started = []
    door = Door(POLICY, unknown="deny", routes=None, records=None, metrics=None, has_place=started.append)
    following = hold_back(door.admission, door.now(), object)
    door.tick()
    assert started == [following]


def exchange(core, started) -> Exchange:
    """Build a request whose client is told of nothing; `started` is set when it runs."""
    head = {b"host": b"127.0.0.1"}
    visit = core.pipeline.enter(b"GET", b"/v1/models", head, core.pipeline.session("127.0.0.1"), core.now())
    client = SimpleNamespace(
        stalled=False,
        keep_alive=False,
        expect_by=lambda _deadline: started.set(),
        refuse=lambda _refusal: 502,
        exchange_ended=lambda *, reusable: None,
    )
    return Exchange(core, client, visit, request_id="", arrived=core.now(), wall=0.0)


def test_a_gateway_gives_them_out_when_it_looks_at_the_clock():
    async def scenario():
        guard = Guard(POLICY)
        await guard.start()
        started = asyncio.Event()
        try:
            core = guard._core
            hold_back(core.admission, core.now(), lambda: exchange(core, started))
            async with asyncio.timeout(20):
                await started.wait()
        finally:
            await guard.stop()

    asyncio.run(scenario())
