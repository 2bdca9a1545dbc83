"""What a policy may not ask of a guard inside an application."""

import pytest

import corral
import corral.wsgi
from corral.errors import PolicyError
from corral.policy.model import LimitRule, Plan, Policy, Quota

EXACT = LimitRule(name="spent", quota=Quota(9, 60.0, "tokens"), exact=True)


@pytest.mark.parametrize("door", [corral.Guard, corral.wsgi.Guard])
@pytest.mark.parametrize(
    "policy", [Policy(auth="none", limits=(EXACT,)), Policy(auth="none", plan={"pro": Plan(limits=(EXACT,))})]
)
def test_it_cannot_have_prompts_counted_and_says_what_to_do(door, policy):
    with pytest.raises(PolicyError, match=r'"spent" is exact.*remove exact = true.*corral guard UPSTREAM'):
        door(lambda: None, policy=policy)
