"""Which limits count whom."""

from corral.policy.model import LimitRule, Plan, Policy, Quota
from corral.policy.plans import all_limits, limits_that_apply


def rule(name: str, per: str = "client") -> LimitRule:
    return LimitRule(name=name, quota=Quota(1, 1.0), per=per)  # type: ignore[arg-type]


POLICY = Policy(
    limits=(rule("client"), rule("all", "everyone"), rule("address", "address")),
    plan={
        "free": Plan(),
        "pro": Plan(limits=(rule("pro"), rule("pros", "everyone"))),
        "team": Plan(limits=(rule("t"),)),
    },
)


def applying(plan: str | None) -> list[str]:
    which = zip(all_limits(POLICY), limits_that_apply(POLICY, plan), strict=True)
    return [limit.name for limit, applies in which if applies]


def test_a_plans_limits_take_the_place_of_all_but_those_for_everyone():
    assert applying("pro") == ["all", "pro", "pros"]
    assert applying("team") == ["all", "t"]


def test_a_plan_without_limits_is_counted_as_none():
    assert applying(None) == applying("free") == ["client", "all", "address"]
