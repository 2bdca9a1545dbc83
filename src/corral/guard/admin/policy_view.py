"""The policy in force, as the admin API shows it: every setting as a file would have it, and nothing secret."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any
from urllib.parse import urlsplit

from corral.policy.model import Policy, Quota
from corral.policy.notation import describe_quota

SECRETS = frozenset(("api_key", "secret", "sha256", "key_sha256", "authorization"))
"""Settings whose values are not shown. Hashes of keys are: who has one can try to find its key."""

REDACTED = "redacted"


def show_policy(policy: Policy) -> dict[str, Any]:
    """Show a policy; durations in seconds, sizes in bytes, what is secret as "redacted"."""
    shown: dict[str, Any] = _shown(policy)
    return shown


def _shown(value: Any, name: str = "") -> Any:
    if value is not None and name in SECRETS:
        return REDACTED
    if isinstance(value, Quota):
        return describe_quota(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _shown(getattr(value, field.name), field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_shown(item) for item in value]
    if isinstance(value, str) and "://" in value:
        return without_credentials(value)
    return value


def without_credentials(url: str) -> str:
    """Leave out what stands before the host of a URL, and its query: either may be a password."""
    parts = urlsplit(url)
    query = REDACTED if parts.query else ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query).geturl()
