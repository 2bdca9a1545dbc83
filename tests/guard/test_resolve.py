from dataclasses import replace
from pathlib import Path

import pytest

from corral.errors import UsageError
from corral.guard.new_key import hash_key, looks_like_key, new_key
from corral.guard.resolve import MADE_KEY, read_key_file, with_credentials, with_keys, with_rate_limit
from corral.policy.model import DEFAULT_LIMITS, ApiKey, Credentials, Identity, LimitRule, Listen, Policy, Quota

ADDRESS = DEFAULT_LIMITS[1]


def test_a_rate_limit_takes_the_client_limits_place() -> None:
    assert with_rate_limit(Policy(), 30, 60.0).limits == (
        LimitRule(name="client", quota=Quota(30, 60.0), per="client", algorithm="window"),
        ADDRESS,
    )


def test_a_rate_limit_leaves_other_partitions_alone() -> None:
    everyone = LimitRule(name="all", quota=Quota(5, 1.0), per="everyone")
    own = LimitRule(name="mine", quota=Quota(9, 9.0), per="client")
    limits = with_rate_limit(Policy(limits=(own, everyone)), 7, 3.5).limits
    assert [limit.name for limit in limits] == ["client", "all"]
    assert limits[0].quota == Quota(7, 3.5)


@pytest.mark.parametrize(
    ("amount", "window", "raised"),
    [
        (30, 60.0, None),
        (150, 60.0, None),
        (151, 60.0, Quota(1510, 60.0)),
        (1000, 60.0, Quota(10_000, 60.0)),
        (10, 1.0, Quota(100, 1.0)),
        (100, 3600.0, None),
    ],
)
def test_the_default_address_limit_is_never_tighter(amount: int, window: float, raised: Quota | None) -> None:
    address = with_rate_limit(Policy(), amount, window).limits[1]
    assert address.quota == (raised or ADDRESS.quota)
    assert address.quota.amount >= 2 * amount
    assert address.quota.amount / address.quota.window >= amount / window


def test_an_address_limit_that_was_written_stays() -> None:
    written = replace(ADDRESS, quota=Quota(10, 60.0))
    assert with_rate_limit(Policy(limits=(written,)), 1000, 60.0).limits[1] == written


def test_keys_from_elsewhere_get_names_of_their_own() -> None:
    policy = Policy(keys=(ApiKey(name="api-key-1", sha256=hash_key("known").upper()),))
    keys = with_keys(policy, ["one", "known", "two", "one"], "api-key").keys
    assert [(key.name, key.sha256) for key in keys[1:]] == [
        ("api-key-2", hash_key("one")),
        ("api-key-3", hash_key("two")),
    ]
    assert not any(key.admin for key in keys)


def test_a_mistyped_key_of_ours_is_noticed() -> None:
    key = new_key()
    assert with_keys(Policy(), [key], "k").keys[0].sha256 == hash_key(key)
    with pytest.raises(UsageError, match="typo") as error:
        with_keys(Policy(), [key[:-1] + ("0" if key[-1] != "0" else "1")], "k")
    assert key[4:20] not in str(error.value)


def test_key_files_are_read_as_llama_server_does(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# mine\n\nfirst\r\n  second  \n")
    assert read_key_file(str(path)) == ["first", "second"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "holds no key"), (b"# none\n", "holds no key"), (b"\xff\xfe", "not UTF-8"), (None, "No such file")],
)
def test_a_key_file_that_cannot_be_used_is_said(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_key_file(str(path))


KEY = ApiKey(name="a", sha256=hash_key("a"))
PUBLIC = Listen(address="0.0.0.0:8080")
PROXIED = Identity(trusted_proxies=("127.0.0.0/8",))


@pytest.mark.parametrize(
    ("policy", "auth", "makes"),
    [
        (Policy(), "none", False),
        (Policy(listen=Listen(address="[::1]:80")), "none", False),
        (Policy(keys=(KEY,)), "keys", False),
        (Policy(listen=PUBLIC), "keys", True),
        (Policy(listen=PUBLIC, keys=(KEY,)), "keys", False),
        (Policy(listen=Listen(address=":8080")), "keys", True),
        (Policy(listen=Listen(address="llama.example:8080")), "keys", True),
        (Policy(identity=PROXIED), "keys", True),
        (Policy(auth="keys"), "keys", True),
        (Policy(auth="none", listen=PUBLIC), "none", False),
    ],
)
def test_only_what_is_written_or_local_is_open(policy: Policy, auth: str, makes: bool) -> None:
    resolved, made = with_credentials(policy)
    assert resolved.auth == auth
    assert (made is not None) == makes
    if made is not None:
        assert looks_like_key(made)
        assert resolved.keys == (ApiKey(name=MADE_KEY, sha256=hash_key(made)),)
    else:
        assert resolved.keys == policy.keys


def _stored(policy: Policy, store: Path) -> tuple[str, str | None, bool]:
    resolved, made = with_credentials(policy, store=store)
    return resolved.auth, resolved.credentials.store, made is not None


def test_a_store_that_is_there_asks_for_its_keys(tmp_path: Path) -> None:
    store = tmp_path / "keys.db"
    store.touch()
    assert _stored(Policy(), store) == ("keys", str(store), False)
    assert _stored(Policy(listen=PUBLIC), store) == ("keys", str(store), False)
    assert _stored(Policy(auth="none"), store) == ("none", None, False)
    assert _stored(Policy(credentials=Credentials(store="")), store) == ("none", "", False)
    assert _stored(Policy(credentials=Credentials(store="mine.db")), store) == ("keys", "mine.db", False)


def test_a_guard_that_asks_for_keys_follows_a_store_that_may_come(tmp_path: Path) -> None:
    store = tmp_path / "keys.db"
    assert _stored(Policy(), store) == ("none", None, False)
    assert _stored(Policy(keys=(KEY,)), store) == ("keys", str(store), False)
    assert _stored(Policy(auth="keys"), store) == ("keys", str(store), True)
    assert _stored(Policy(auth="keys", credentials=Credentials(store="")), store) == ("keys", "", True)


def test_a_rate_limit_takes_the_place_of_no_budget():
    wallet = LimitRule(name="wallet", quota=Quota(5_000_000, 86_400.0, "cost", "usd", "day"))
    assert wallet in with_rate_limit(Policy(limits=(wallet,)), 30, 60.0).limits
