"""Which models the policy knows by name. Clients may invent others: those are one, however many names they have."""

from corral.policy.model import ANY_MODEL, Policy

OTHER = ""
"""What every model is called here that the policy does not name."""


def known_models(policy: Policy) -> frozenset[str]:
    """Collect the models that the policy names anywhere."""
    named = {model for plan in policy.plan.values() for model in plan.models}
    return frozenset(named.union(policy.price) - {ANY_MODEL})
