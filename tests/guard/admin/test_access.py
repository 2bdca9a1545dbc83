"""Who gets into the admin API, and who does not."""

from dataclasses import replace
from pathlib import Path

import pytest

from corral.guard.key_desk import KeyDesk
from corral.guard.key_store import KeyStore
from corral.policy.model import Admin, Credentials, Policy, Quota
from running_admin import KEY, OPEN, AdminFactory, start_admin
from running_guard import api_key, start_guard

__all__ = ["start_admin", "start_guard"]

CLOSED = Policy(auth="none", admin=Admin(listen="127.0.0.1:0"))


def test_the_configured_key_opens_it(start_admin: AdminFactory) -> None:
    admin = start_admin()
    assert admin.ask("/status").status == 200
    assert admin.ask("/status", key=None, head=f"X-Api-Key: {KEY}\r\n").status == 200


def test_without_a_configured_key_it_is_closed_also_on_loopback(start_admin: AdminFactory) -> None:
    admin = start_admin(policy=CLOSED)
    for key in (None, KEY, ""):
        told = admin.ask("/status", key=key)
        assert told.status in (401, 403)
        assert "CORRAL_ADMIN_KEY" in told.problem
    assert admin.ask("/metrics", key=None).status == 200
    assert admin.ask("/health", key=None).status == 200


def test_without_a_key_it_is_asked_for(start_admin: AdminFactory) -> None:
    told = start_admin().ask("/status", key=None)
    assert told.status == 401
    assert told.head["www-authenticate"] == 'Bearer realm="corral admin"'
    assert "Authorization: Bearer" in told.problem


def test_an_admin_key_of_the_policy_opens_it_and_no_other(start_admin: AdminFactory) -> None:
    keys = (api_key("root", "r00t", admin=True), api_key("alice", "al1ce"))
    admin = start_admin(policy=Policy(auth="keys", keys=keys, admin=Admin(listen="127.0.0.1:0")))
    assert admin.ask("/status", key="r00t").status == 200
    told = admin.ask("/status", key="al1ce")
    assert told.status == 403
    assert "no admin key" in told.problem
    assert admin.ask("/status", key="guess").status == 401


def test_an_admin_key_of_the_store_opens_it_until_it_is_revoked(start_admin: AdminFactory, tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    policy = Policy(auth="keys", credentials=Credentials(store=str(path)), admin=Admin(listen="127.0.0.1:0"))
    with KeyStore.create(path) as store:
        desk = KeyDesk(store, policy)
        made = desk.create("root", 1.0, plan=None, admin=True, lifetime=None)
        admin = start_admin(policy=policy)
        assert admin.ask("/status", key=made.secret).status == 200
        desk.revoke("root", 2.0)
    for _ in range(2000):
        told = admin.ask("/status", key=made.secret)
        if told.status != 200:
            break
    assert told.status in (401, 429)


def test_wrong_keys_are_limited_by_address_as_for_clients(start_admin: AdminFactory) -> None:
    policy = Policy(auth="none", admin=OPEN, max_failed_logins=Quota(3, 3600.0))
    admin = start_admin(policy=policy)
    assert [admin.ask("/status", key=f"guess {n}").status for n in range(4)] == [401] * 3 + [429]
    told = admin.ask("/status", key="x")
    assert told.status == 429
    assert int(told.head["retry-after"]) > 0
    assert admin.ask("/status").status == 429, "a right key is not heard either, from where nobody has got in"


def test_a_guesser_does_not_lock_out_who_is_in(start_admin: AdminFactory) -> None:
    admin = start_admin(policy=Policy(auth="none", admin=OPEN, max_failed_logins=Quota(3, 3600.0)))
    assert admin.ask("/status").status == 200
    assert {admin.ask("/status", key="x").status for _ in range(9)} == {401, 429}
    assert admin.ask("/status").status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9464", "127.0.0.1.evil.example"])
def test_a_name_that_a_web_page_may_have_is_refused(start_admin: AdminFactory, host: str) -> None:
    told = start_admin().ask("/status", host=host)
    assert told.status == 403
    assert "localhost" in told.problem


@pytest.mark.parametrize("host", ["127.0.0.1:9464", "localhost", "localhost:1", "[::1]:9464"])
def test_a_local_name_is_heard(start_admin: AdminFactory, host: str) -> None:
    assert start_admin().ask("/status", host=host).status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1"])
def test_pages_of_another_origin_are_refused(start_admin: AdminFactory, origin: str) -> None:
    told = start_admin().ask("/reload", "POST", head=f"Origin: {origin}\r\n")
    assert told.status == 403
    assert "origin" in told.problem
    assert "access-control-allow-origin" not in told.head


def test_a_preflight_is_refused(start_admin: AdminFactory) -> None:
    head = "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n"
    told = start_admin().ask("/reload", "OPTIONS", key=None, head=head)
    assert told.status == 403
    assert not [name for name in told.head if name.startswith("access-control")]


def test_a_key_in_the_url_is_refused(start_admin: AdminFactory) -> None:
    assert start_admin().ask(f"/status?api_key={KEY.replace(' ', '+')}").status == 400


def test_a_reload_changes_the_key_and_the_number_of_wrong_ones(start_admin: AdminFactory) -> None:
    other = "0123456789abcdef0123456789abcdef"
    changed = replace(OPEN, key_sha256="5d9cc6ae3a4e9e6d3fb0a13a2df6ca3a4f39bb12b0d4a1f9ad0fbd1f3b1a9cd7")
    admin = start_admin(read=lambda before: replace(before, admin=changed, max_failed_logins=Quota(100, 60.0)))
    assert admin.ask("/reload", "POST").status == 200
    assert admin.ask("/status").status == 401
    assert admin.ask("/status", key=other).status == 401
