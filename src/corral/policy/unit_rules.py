"""What may not be said of a quota's unit: bursts of what has none, costs without prices, prices without costs."""

from collections.abc import Iterator

from corral.policy.model import ANY_MODEL, LimitRule, Policy
from corral.policy.plans import all_limits

COUNTING = ("llamacpp", "openai")
"""The dialects whose servers count a prompt when they are asked to."""

_ANY_PRICE = f'[price."{ANY_MODEL}"]'


def wrong_units(policy: Policy, limit: LimitRule) -> Iterator[tuple[str, str]]:
    """Say which setting of a limit does not fit what it counts, and what to write instead."""
    quota, burst = limit.quota, limit.burst
    if quota.unit == "concurrent requests":
        if burst is not None:
            yield "burst", "what runs at once has no burst; remove it."
        if limit.algorithm == "window":
            yield "algorithm", "what runs at once is counted in no window; remove it."
    elif quota.period:
        if burst is not None:
            yield (
                "burst",
                f"a budget for a calendar {quota.period} has no burst; remove it, or write the time in hours.",
            )
    elif quota.unit == "cost":
        if burst is not None:
            yield "burst", "costs have no burst; remove it."
    elif quota.unit != "requests" and burst is not None and burst > quota.amount:
        yield (
            "burst",
            f"{burst:,} at once are more than the {quota.amount:,} of the quota; write at most that.",
        )
    if limit.exact and (wrong := _not_exact(policy, quota.unit)):
        yield "exact", wrong
    if quota.unit == "cost" and ANY_MODEL not in policy.price:
        yield (
            "quota",
            f"costs are counted by prices, and models that have none would cost nothing; add {_ANY_PRICE} with input "
            "and output, the price of a million tokens.",
        )


def _not_exact(policy: Policy, unit: str) -> str:
    """Say why prompts cannot be counted for a limit on `unit`; "" where they can."""
    if unit not in ("tokens", "input tokens", "cost"):
        return f"prompts are counted for tokens, input tokens and costs, and this limit counts {unit}; remove it."
    dialect = policy.upstream.dialect
    if dialect not in COUNTING:
        return f"{dialect} has no route that counts a prompt, so prompts can only be estimated there; remove it."
    return ""


def counts_have_room(policy: Policy) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Say where no connection to the server is left to count prompts with."""
    servers = max(1, len(policy.upstreams))
    slots = policy.upstream.slots or -(-(policy.concurrency.max_running or 0) // servers)
    needed = slots + 2
    if policy.upstream.max_connections < needed and any(rule.exact for rule in all_limits(policy)):
        yield (
            ("upstream", "max_connections"),
            f"an exact limit has prompts counted beside the requests that run; write {needed} or more.",
        )


def prices_are_whole(policy: Policy) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Say what is wrong with the prices as a whole."""
    quotas = [rule.quota for rule in all_limits(policy) if rule.quota.unit == "cost"]
    if policy.price and not quotas and not any("model" in rule.partitions for rule in all_limits(policy)):
        yield ("price",), 'no limit counts costs, so prices change nothing; add one with quota = "20 usd/day".'
    if "" in policy.price:
        yield ("price", ""), f"a model has a name; the price of all others is {_ANY_PRICE}."
    currencies = sorted({quota.currency for quota in quotas})
    if len(currencies) > 1:
        named = ", ".join(currency or "cost" for currency in currencies)
        yield ("price",), f"prices are in one currency, and the quotas are in several ({named}); write one of them."
    if policy.budgets.store and not any(rule.quota.period for rule in all_limits(policy)):
        yield (
            ("budgets", "store"),
            'no limit counts costs by the calendar, so there is nothing to keep; add one with quota = "20 usd/day".',
        )
