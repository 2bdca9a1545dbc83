"""Whom a limit counts: the partition key of a caller."""

from corral.engine.decision import PartitionKey
from corral.guard.credentials import Credential
from corral.policy.model import LimitRule


def partition(rule: LimitRule, address: str, key: Credential | None) -> PartitionKey | None:
    """Name whom `rule` counts for this caller; None where the rule does not apply to it."""
    if rule.per == "address":
        return ("address", address)
    if rule.per == "everyone":
        return "everyone"
    if key is not None:
        return ("key", key.name)
    return ("address", address) if rule.per == "client" else None
