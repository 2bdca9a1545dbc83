"""What `per` may not say: whom nobody could tell apart, by this policy."""

from collections.abc import Iterator

from corral.policy.model import LimitRule, Policy
from corral.policy.models import known_models

_OPEN = 'where none is asked for (auth is "none", or "auto" and no key is configured)'


def wrong_partitions(policy: Policy, limit: LimitRule) -> Iterator[str]:
    """Say what is wrong with whom a limit counts, and what to write instead."""
    parts = limit.partitions
    if not parts:
        yield 'this names nobody; write "everyone" to count all together.'
    for part in sorted({part for part in parts if parts.count(part) > 1}):
        yield f'"{part}" stands here twice; write it once.'
    if "everyone" in parts and len(parts) > 1:
        yield '"everyone" tells nobody apart, so it stands alone; leave it out here.'
    if policy.auth == "none":
        if "key" in parts:
            yield f'nobody has a key {_OPEN}; write "address" or "client", or ask for keys: auth = "keys".'
        if "user" in parts:
            yield f'nobody is known by name {_OPEN}; write "address", or ask for keys: auth = "keys".'
        if "plan" in parts:
            yield f'nobody is on a plan {_OPEN}; write "everyone", or ask for keys: auth = "keys".'
    if "plan" in parts and not policy.plan:
        yield 'there are no plans, so all would count together; write "everyone", or add a plan, as [plan.pro].'
    if "model" in parts and not known_models(policy):
        yield (
            "no model is known by name, and names that clients invent count together; name the models in a plan, as "
            'models = ["llama-3"], or give them a price, as [price."llama-3"].'
        )
