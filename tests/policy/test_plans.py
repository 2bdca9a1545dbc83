"""Which limits count whom."""

from corral.policy.model import LimitRule, Plan, Policy, Quota
from corral.policy.plans import all_limits, limits_of, limits_that_apply, refuse_model


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
    assert len(all_limits(POLICY)) == len(limits_that_apply(POLICY, plan))
    return [limit.name for limit in limits_of(POLICY, plan)]


def test_a_plans_limits_take_the_place_of_all_but_those_for_everyone():
    assert applying("pro") == ["all", "pro", "pros"]
    assert applying("team") == ["all", "t"]


def test_a_plan_without_limits_is_counted_as_none():
    assert applying(None) == applying("free") == ["client", "all", "address"]


def test_a_list_of_models_demands_that_one_of_them_is_named():
    plan = Plan(models=("big", "small"))
    assert refuse_model(plan, "big") is None
    assert "it has: big, small" in (refuse_model(plan, "other") or "")
    assert "names no model" in (refuse_model(plan, None) or "")
    assert refuse_model(Plan(), None) is None
