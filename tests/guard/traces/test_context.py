"""Which requests are traced, and who decides that."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from corral.guard.traces.context import TraceContexts, read_traceparent
from corral.policy.model import Identity, Policy, Telemetry

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01".encode()
UNSAMPLED = f"00-{TRACE}-{PARENT}-00".encode()
ENDPOINT = "http://127.0.0.1:4318/v1/traces"
READ = (int(TRACE, 16), int(PARENT, 16), True)


def contexts(*, proxies: tuple[str, ...] = (), **settings: Any) -> TraceContexts:
    telemetry = replace(Telemetry(endpoint=ENDPOINT), **settings)
    return TraceContexts(Policy(telemetry=telemetry, identity=Identity(trusted_proxies=proxies)), Random(1))


@pytest.mark.parametrize(
    ("header", "read"),
    [
        (SAMPLED, READ),
        (UNSAMPLED, (*READ[:2], False)),
        (b" " + SAMPLED + b" ", READ),
        (f"00-{TRACE}-{PARENT}-03".encode(), READ),
        (f"cc-{TRACE}-{PARENT}-01-what-comes-later".encode(), READ),
        (f"cc-{TRACE}-{PARENT}-01.nonsense".encode(), None),
        (f"00-{TRACE}-{PARENT}-01-more".encode(), None),
        (f"ff-{TRACE}-{PARENT}-01".encode(), None),
        (f"00-{'0' * 32}-{PARENT}-01".encode(), None),
        (f"00-{TRACE}-{'0' * 16}-01".encode(), None),
        (SAMPLED.upper(), None),
        (SAMPLED + b"," + SAMPLED, None),
        (b"", None),
    ],
)
def test_traceparent_is_read_as_the_w3c_says(header: bytes, read: tuple[int, int, bool] | None) -> None:
    assert read_traceparent(header) == read


def test_a_share_of_the_requests_is_traced() -> None:
    chosen = contexts(sample_ratio=0.25)
    assert 900 < sum(chosen.begin({}, "192.0.2.1") is not None for _ in range(4000)) < 1100
    assert contexts(sample_ratio=0.0).begin({}, "192.0.2.1") is None
    assert contexts(sample_ratio=1.0).begin({}, "192.0.2.1") is not None


@pytest.mark.parametrize("parent", ["none", "everyone", "proxies"])
def test_a_client_does_not_decide_whether_it_is_traced(parent: str) -> None:
    """Neither the flag nor the ids that it writes count for anything, whatever is continued."""
    proxies = ("10.0.0.0/8",)
    for header in (SAMPLED, b"00-00000000000000000000000000000001-0000000000000001-01"):
        never = contexts(sample_ratio=0.0, parent=parent, proxies=proxies)
        assert never.begin({b"traceparent": header}, "192.0.2.1") is None
    always = contexts(sample_ratio=1.0, parent=parent, proxies=proxies)
    assert always.begin({b"traceparent": UNSAMPLED}, "192.0.2.1") is not None


@pytest.mark.parametrize(
    ("parent", "peer", "continued"),
    [
        ("none", "10.1.2.3", False),
        ("proxies", "10.1.2.3", True),
        ("proxies", "::ffff:10.1.2.3", True),
        ("proxies", "192.0.2.1", False),
        ("proxies", "", False),
        ("everyone", "192.0.2.1", True),
    ],
)
def test_only_who_may_is_continued(parent: str, peer: str, continued: bool) -> None:
    trace = contexts(sample_ratio=1.0, parent=parent, proxies=("10.0.0.0/8",)).begin({b"traceparent": SAMPLED}, peer)
    assert trace is not None
    assert (trace.trace_id == int(TRACE, 16)) == continued
    assert trace.parent_id == (int(PARENT, 16) if continued else 0)


def test_a_trusted_proxy_decides_for_what_it_began() -> None:
    chosen = contexts(sample_ratio=0.0, parent="proxies", proxies=("10.0.0.0/8",))
    assert chosen.begin({b"traceparent": SAMPLED}, "10.0.0.1") is not None
    chosen = contexts(sample_ratio=1.0, parent="proxies", proxies=("10.0.0.0/8",))
    assert chosen.begin({b"traceparent": UNSAMPLED}, "10.0.0.1") is None
    assert chosen.begin({}, "10.0.0.1") is not None


def test_the_server_is_told_what_is_not_traced_either() -> None:
    trace = contexts(sample_ratio=0.0, forward=True).begin({}, "192.0.2.1")
    assert trace is not None
    assert not trace.sampled
    sent = trace.header().removeprefix(b"traceparent: ")
    assert read_traceparent(sent) == (trace.trace_id, trace.upstream_id, False)
