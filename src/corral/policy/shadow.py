"""A policy that is only tried out: what it counts and tells, and what it enforces all the same."""

from dataclasses import replace

from corral.policy.model import LimitRule, Policy

ENFORCED = "Still enforced: credentials, which routes are open, and what a request must be to be understood at all."


def with_shadow(policy: Policy) -> Policy:
    """Put every limit in shadow where the policy as a whole is."""
    if not policy.shadow:
        return policy
    return replace(
        policy,
        limits=_all(policy.limits),
        plan={name: replace(plan, limits=_all(plan.limits)) for name, plan in policy.plan.items()},
    )


def _all(limits: tuple[LimitRule, ...]) -> tuple[LimitRule, ...]:
    return tuple(replace(limit, shadow=True) for limit in limits)
