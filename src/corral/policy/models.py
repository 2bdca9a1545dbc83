"""Which models the policy knows by name. Clients may invent others: those are one, however many names they have.

Ollama has many names for one model. They are told apart as little as it does, or clients would choose the price.
"""

from dataclasses import replace

from corral.policy.model import ANY_MODEL, Policy, Price

OTHER = ""
"""What every model is called here that the policy does not name."""


def known_models(policy: Policy) -> frozenset[str]:
    """Collect the models that the policy names anywhere."""
    named = {model for plan in policy.plan.values() for model in plan.models}
    return frozenset(named.union(policy.price) - {ANY_MODEL})


def has_aliases(policy: Policy) -> bool:
    """Tell whether the policy's server knows a model by more than one name; see `plain_name`."""
    return policy.upstream.dialect == "ollama"


def plain_name(name: str) -> str:
    """Write one of Ollama's names for a model the short way, in which all of them are the same.

    What it fills in by itself is left out: `https://registry.ollama.ai/library/`, `:latest`, and where a model is run
    (`:local`). `:cloud` behind a tag is `-cloud`. Capitals are small letters.
    """
    name = name.strip().lower()
    if name.endswith(":local"):
        name = name.removesuffix(":local")
    elif name.endswith(":cloud") and ":" in name.removesuffix(":cloud").rpartition("/")[2]:
        name = name.removesuffix(":cloud") + "-cloud"
    name = name.partition("://")[2] or name
    return name.removeprefix("registry.ollama.ai/").removeprefix("library/").removesuffix(":latest")


def with_plain_names(policy: Policy) -> Policy:
    """Name every model the short way, where it has several names. Of several prices for one the highest counts."""
    if not has_aliases(policy):
        return policy
    prices: dict[str, Price] = {}
    for model, price in policy.price.items():
        name = plain_name(model)
        other = prices.get(name, price)
        prices[name] = Price(input=max(price.input, other.input), output=max(price.output, other.output))
    plans = {
        name: replace(plan, models=tuple(dict.fromkeys(map(plain_name, plan.models))))
        for name, plan in policy.plan.items()
    }
    return replace(policy, plan=plans, price=prices)
