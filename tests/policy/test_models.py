"""Models by their names, of which Ollama has many for one."""

import pytest

from corral.policy.model import Plan, Policy, Price, Upstream
from corral.policy.models import known_models, plain_name, with_plain_names

OLLAMA = Upstream(dialect="ollama")


@pytest.mark.parametrize(
    "name",
    [
        "llama3", "LLAMA3", " llama3 ", "llama3:latest", "llama3:LATEST", "library/llama3", "llama3:local",
        "registry.ollama.ai/library/llama3", "https://registry.ollama.ai/library/Llama3:latest", "llama3:latest:local",
    ],
)  # fmt: skip
def test_all_of_ollamas_names_for_a_model_are_one(name):
    assert plain_name(name) == "llama3"


def test_what_is_another_model_keeps_a_name_of_its_own():
    names = ["llama3:8b", "me/llama3", "hf.co/me/llama3", "llama3:cloud", "*", ""]
    assert list(map(plain_name, names)) == names
    assert plain_name("gpt-oss:120b:cloud") == plain_name("gpt-oss:120b-cloud") == "gpt-oss:120b-cloud"


def test_a_policy_for_ollama_names_each_model_once_at_its_highest_price():
    policy = Policy(
        upstream=OLLAMA,
        plan={"pro": Plan(models=("Big", "big:latest", "small"))},
        price={
            "big": Price(input=1.0, output=9.0),
            "library/big": Price(input=2.0, output=3.0),
            "*": Price(input=0.1, output=0.1),
        },
    )
    plain = with_plain_names(policy)
    assert plain.plan["pro"].models == ("big", "small")
    assert plain.price == {"big": Price(input=2.0, output=9.0), "*": Price(input=0.1, output=0.1)}
    assert known_models(plain) == {"big", "small"}


def test_elsewhere_names_are_what_they_are():
    policy = Policy(plan={"pro": Plan(models=("Big", "big:latest"))})
    assert with_plain_names(policy) is policy
