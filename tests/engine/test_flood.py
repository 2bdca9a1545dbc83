"""What honest clients of a modelled server get beside a flood: hardly less than without it, and the flood the rest."""

from statistics import quantiles

import pytest

from corral.engine.admission import Admission
from modelled_server import ModelledServer, Request, bursty

PLACES = 4


def honest(seed: int) -> list[Request]:
    return bursty(seed, clients=8, rate=2.4, seconds=60.0, start=3.0)


def first_tokens(seed: int, flooding: int, at_once: int = 16) -> tuple[float, int]:
    """Serve honest clients beside so many others; the 95th percentile of the time to the first token, and the flood."""
    server = ModelledServer(Admission(PLACES, 64, 30.0), tuple(f"flood-{n}" for n in range(flooding)), at_once)
    requests = honest(seed)
    server.serve(requests, until=120.0)
    assert all(request.ended < 120.0 for request in requests)
    times = quantiles((request.first - request.at for request in requests), n=20)
    return times[-1], sum(number for client, number in server.served.items() if client.startswith("flood"))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("flooding", "at_once"), [(1, 64), (4, 16), (4, 4)])
def test_the_time_to_the_first_token_holds_beside_a_flood(seed, flooding, at_once):
    alone, _ = first_tokens(seed, 0)
    beside, flood = first_tokens(seed, flooding, at_once)
    assert beside <= 1.5 * alone
    assert flood >= 100


def test_a_flood_that_is_alone_has_the_whole_server():
    server = ModelledServer(Admission(PLACES, 64, 30.0), ("flood",), 64)
    last = Request(60.0, "flood", 90, 64)
    server.serve([last], until=60.0)
    # Four of them at once take four prompts and 63 steps of four.
    assert server.served["flood"] == pytest.approx(60.0 / (4 * 90 * 0.0009 + 63 * 0.0077) * 4, rel=0.02)
