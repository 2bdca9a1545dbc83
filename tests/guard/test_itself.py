"""A guard in front of itself is refused, however the address is written."""

from dataclasses import replace

import pytest

from corral.errors import UsageError
from corral.guard.itself import addresses_of, refuse_itself
from corral.policy.model import Listen, Policy, Upstream


def policy(listen: str, upstream: str) -> Policy:
    return Policy(listen=Listen(address=listen), upstream=replace(Upstream(), url=upstream))


HERE = ("127.0.0.1", "localhost", "[::1]", "0.0.0.0")


@pytest.mark.parametrize("listen", HERE)
@pytest.mark.parametrize("upstream", HERE)
def test_every_way_to_write_this_machine_is_the_same(listen, upstream):
    with pytest.raises(UsageError, match=r"corral guard http://.*:9000 --listen .*:9001"):
        refuse_itself(policy(f"{listen}:9000", f"http://{upstream}:9000"))
    refuse_itself(policy(f"{listen}:9000", f"http://{upstream}:9001"))


@pytest.mark.parametrize(
    ("listen", "upstream"),
    [
        (":9000", "http://127.0.0.7:9000"),
        ("127.0.0.2:9000", "http://127.0.0.2:9000"),
        ("127.0.0.1:80", "http://localhost"),
        ("nowhere.invalid:9000", "http://nowhere.invalid:9000"),
    ],
)
def test_it_is_found_out_by_what_the_names_mean(listen, upstream):
    with pytest.raises(UsageError):
        refuse_itself(policy(listen, upstream))


@pytest.mark.parametrize(
    ("listen", "upstream"),
    [
        ("127.0.0.1:0", "http://127.0.0.1:8080"),
        ("127.0.0.1:9000", "http://127.0.0.2:9000"),
        (":9000", "http://192.0.2.1:9000"),
        ("127.0.0.1:9000", "http://nowhere.invalid:9000"),
        ("127.0.0.1:9000", "unix:/run/x.sock"),
    ],
)
def test_another_server_may_be_guarded(listen, upstream):
    refuse_itself(policy(listen, upstream))


def test_the_address_to_write_is_another_even_at_the_last_port():
    with pytest.raises(UsageError, match=r"--listen 127\.0\.0\.1:65534"):
        refuse_itself(policy("127.0.0.1:65535", "http://localhost:65535"))


def test_a_name_that_is_nowhere_has_no_addresses():
    assert addresses_of("nowhere.invalid") == frozenset()
