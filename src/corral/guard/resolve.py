"""A policy made ready to run: flags that stand for whole limits, further keys, and whether keys are asked for."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from corral.errors import UsageError
from corral.guard.new_key import hash_key, looks_like_key, new_key
from corral.policy.explain import asks_for_keys
from corral.policy.model import DEFAULT_LIMITS, ApiKey, Budgets, LimitRule, Policy, Quota
from corral.policy.plans import all_limits

CLIENT_LIMIT = "client"
"""What the limit that `--rate-limit` sets is called."""

MADE_KEY = "made-at-start"
"""Whose name stands for a key that the guard made itself."""

_DEFAULT_ADDRESS = next(rule for rule in DEFAULT_LIMITS if rule.per == "address")
_ADDRESS_SHARE = 10  # clients with keys that may share an address, where the flag raised what each of them may do


def with_rate_limit(policy: Policy, amount: int, window: float) -> Policy:
    """Let each client make `amount` requests in `window` seconds, counted from its first.

    It takes the place of every limit on the requests of each client. The default limit of each address is raised where
    it would refuse a client that keeps to its own; one that the operator wrote stays as it is.
    """
    client = LimitRule(name=CLIENT_LIMIT, quota=Quota(amount, window), per="client", algorithm="window")
    others = [rule for rule in policy.limits if not _counts_requests_of_clients(rule) and rule.name != CLIENT_LIMIT]
    return replace(policy, limits=(client, *(_no_tighter(rule, client.quota) for rule in others)))


def _counts_requests_of_clients(rule: LimitRule) -> bool:
    return rule.partitions == ("client",) and rule.quota.unit == "requests"


def _no_tighter(rule: LimitRule, quota: Quota) -> LimitRule:
    """Raise the default address limit where it is tighter than `quota`; twice that may come around a window's end."""
    if rule != _DEFAULT_ADDRESS:
        return rule
    roomy = rule.quota.amount >= 2 * quota.amount
    as_fast = rule.quota.amount * quota.window >= quota.amount * rule.quota.window
    if roomy and as_fast:
        return rule
    return replace(rule, quota=Quota(_ADDRESS_SHARE * quota.amount, quota.window))


def with_keys(policy: Policy, keys: Iterable[str], name: str) -> Policy:
    """Let in who presents one of `keys` too: each is called `name` and a number, unless the policy knows it already.

    Raises:
        UsageError: a key is empty, or looks like one of Corral's own with a typo in it.

    """
    known = {key.sha256.lower() for key in policy.keys}
    names = {key.name for key in policy.keys}
    added: list[ApiKey] = []
    for key in keys:
        if key.startswith("crl_") and not looks_like_key(key):
            raise UsageError("A key starts with crl_ but has a typo: its checksum is wrong. Copy it again.")
        digest = hash_key(key)
        if digest not in known:
            known.add(digest)
            number = next(n for n in range(1, len(names) + 2) if f"{name}-{n}" not in names)
            names.add(f"{name}-{number}")
            added.append(ApiKey(name=f"{name}-{number}", sha256=digest))
    return replace(policy, keys=(*policy.keys, *added))


def read_key_file(path: str) -> list[str]:
    """Read a file with one key a line, as llama-server does: blank lines and lines that begin with `#` are none.

    Raises:
        UsageError: the file cannot be read, or holds no key.

    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"The key file {path} cannot be read: {reason}.") from None
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise UsageError(f"The key file {path} holds no key: write one a line.")
    return keys


def with_credentials(
    policy: Policy, make_key: Callable[[], str] = new_key, *, store: Path | None = None
) -> tuple[Policy, str | None]:
    """Decide `auth`: "keys" with at least one key or a key store, or "none".

    `store` is the key store that is used where the policy says nothing of one. Once it is there it is as good as a
    configured one; where keys are demanded anyway it is followed even before, so that the first `corral keys create`
    takes effect in a guard that runs.

    Answers the policy and, where a key is demanded and none was configured, the one that was made: show it once, keep
    it nowhere.
    """
    credentials = policy.credentials
    undecided = credentials.store is None and store is not None
    if undecided and policy.auth != "none" and Path(str(store)).is_file():
        policy, undecided = replace(policy, credentials=replace(credentials, store=str(store))), False
    if not asks_for_keys(policy):
        return replace(policy, auth="none"), None
    policy = replace(policy, auth="keys")
    key = None
    if not (policy.keys or policy.credentials.store or policy.jwt.key_settings):
        key = make_key()
        policy = replace(policy, keys=(ApiKey(name=MADE_KEY, sha256=hash_key(key)),))
    if undecided:
        policy = replace(policy, credentials=replace(credentials, store=str(store)))
    return policy, key


def with_budgets(policy: Policy, default: Path) -> Policy:
    """Keep the calendar's budgets in `default`, where there are such and the policy does not say where."""
    if policy.budgets.store is not None or not any(rule.quota.period for rule in all_limits(policy)):
        return policy
    return replace(policy, budgets=Budgets(store=str(default)))
