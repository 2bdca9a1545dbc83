"""Which limits there are, and which of them apply on which plan."""

from corral.policy.model import LimitRule, Policy


def all_limits(policy: Policy) -> tuple[LimitRule, ...]:
    """List every limit of the policy: those for all, then each plan's own, in the order they were written."""
    own = (rule for plan in policy.plan.values() for rule in plan.limits)
    return (*policy.limits, *own)


def limits_that_apply(policy: Policy, plan: str | None) -> tuple[bool, ...]:
    """Say for each of `all_limits` whether it counts who is on `plan`; None is no plan.

    A plan with limits of its own is counted by these, and by those for everyone: no plan may take the server from all
    others. A plan without any is counted as if there were no plan.
    """
    chosen = policy.plan[plan].limits if plan is not None else ()
    general = (rule.per == "everyone" or not chosen for rule in policy.limits)
    own = (name == plan for name, other in policy.plan.items() for _ in other.limits)
    return (*general, *own)
