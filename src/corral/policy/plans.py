"""What a plan means: which limits apply on it, and which models may be asked for."""

from corral.policy.model import LimitRule, Plan, Policy


def all_limits(policy: Policy) -> tuple[LimitRule, ...]:
    """List every limit of the policy: those for all, then each plan's own, in the order they were written."""
    own = (rule for plan in policy.plan.values() for rule in plan.limits)
    return (*policy.limits, *own)


def limits_of(policy: Policy, plan: str | None) -> tuple[LimitRule, ...]:
    """List the limits that count who is on `plan`; None is no plan."""
    which = zip(all_limits(policy), limits_that_apply(policy, plan), strict=True)
    return tuple(rule for rule, applies in which if applies)


def limits_that_apply(policy: Policy, plan: str | None) -> tuple[bool, ...]:
    """Say for each of `all_limits` whether it counts who is on `plan`; None is no plan.

    A plan with limits of its own is counted by these, and by those that count many together (everyone, a model, a
    route, a plan): no plan may take the server from all others. A plan without any is counted as if there were no plan.
    """
    chosen = policy.plan[plan].limits if plan is not None else ()
    general = (rule.counts_crowds or not chosen for rule in policy.limits)
    own = (name == plan for name, other in policy.plan.items() for _ in other.limits)
    return (*general, *own)


def refuse_model(plan: Plan, model: str | None) -> str | None:
    """Say why `model` may not be asked for on `plan`; None where it may. A list of models demands that one is named."""
    if not plan.models or model in plan.models:
        return None
    asked = "The request names no model" if model is None else "The plan does not have that model"
    return f"{asked}; it has: {', '.join(plan.models)}."
