"""What a request is told for which there is not enough left: of tokens, of computing time, of money, of places."""

import math
from collections.abc import Mapping, Sequence

from corral.dialects.model import Asked, Route
from corral.engine.decision import Deny, Standing
from corral.engine.limit import capacity_of, measure_of
from corral.engine.measures import INPUT, MEASURES, MONEY, OUTPUT, TOKEN_MEASURES, Costs, scale_of
from corral.engine.price import Prices
from corral.engine.tokens import Tokens
from corral.guard.refusal import Refusal
from corral.policy.model import LimitRule
from corral.policy.notation import describe_money, describe_quota, describe_seconds
from corral.policy.whose import this

LEAST_ANSWER = 16
"""The fewest tokens that a whole quota must leave for each answer where the client named no maximum of its own."""

_ENDLESS = 1 << 60

_ROUNDING = 1e-3
"""Of a unit: times are told in seconds, so what comes back in one is known no better."""


class HeldRefusals:
    """Words refusals by the limits of one policy: `rules` by their names."""

    def __init__(self, rules: Mapping[str, LimitRule], prices: Prices | None) -> None:
        self._rules = rules
        self._prices = prices

    def largest(self, room: Costs, reserved: Tokens, asked: Asked) -> int:
        """Say how many tokens each answer may have in so much room; negative or 0 where none fits."""
        prompt = reserved.input
        if prompt > room[1]:
            return 0
        most = min(room[0] - prompt, room[2])
        if self._prices is not None and room[MONEY] < _ENDLESS:
            affordable = self._prices.affordable(asked.model, prompt, room[MONEY])
            most = most if affordable is None else min(most, affordable)
        return most // asked.choices

    def never(
        self, route: Route, asked: Asked, reserved: Tokens, wanted: Costs, room: Costs, *, counted: bool = True
    ) -> Refusal:
        """Refuse a request that is larger than a whole quota: no waiting helps.

        Of a prompt that is not `counted` yet only the least is known, so nothing is said of how much would fit.
        """
        measure = next(index for index in (0, 1, 2, MONEY) if wanted[index] > room[index])
        largest = self.largest(room, reserved, asked)
        helps = reserved.output > 0 and largest >= 1
        advice = "Send a shorter prompt"
        if helps:
            advice = f"Ask for at most {largest} tokens an answer" if counted else "Ask for shorter answers"
        elif measure == OUTPUT:
            advice = "Ask for fewer answers at once"
        if measure == MONEY:
            amounts = f"Limit {describe_money(room[measure])}, Requested {describe_money(wanted[measure])}"
        else:
            amounts = f"Limit {room[measure]}, Requested {wanted[measure]} {MEASURES[measure]}"
        if measure not in (INPUT, OUTPUT):
            least = "about" if counted else "at least"
            amounts += f" ({least} {reserved.input} for the prompt, {reserved.output} for the answer)"
        message = f"This request can never fit: {amounts}. {advice}."
        return Refusal("exceeds_quota", message, route.errors, route.name, "max_tokens" if helps else None)

    def not_now(
        self, route: Route, asked: Asked, reserved: Tokens, wanted: Costs, denial: Deny, *, plan: str | None,
        typical: float, counted: bool = True,
    ) -> Refusal:  # fmt: skip
        """Refuse a request that does not fit into what is left, and say when it will, or what would fit now.

        `typical` is how many seconds requests take, for those that wait until another one ends. What would fit is not
        known of a prompt that is not `counted` yet.
        """
        worst = max(denial.violated, key=_reset)
        rule = self._rules[worst.name]
        retry_after = denial.retry_after
        cost = wanted[measure_of(rule)]
        unit = rule.quota.unit
        if rule.quota.counts_tokens:
            kind, message = "tokens_exceeded", self._no_tokens(rule, worst, cost)
            message += (self._what_fits(denial, reserved, asked) if counted else "") + "."
        elif unit == "concurrent requests":
            retry_after = max(1.0, typical / rule.quota.amount)
            kind = "too_many_at_once"
            message = (
                f"As many requests as may run or wait at once do already for {this(rule)}: "
                f'{describe_quota(rule.quota)} (limit "{rule.name}"). Please try again when one has ended.'
            )
        elif unit == "cost":
            kind, message = "budget_spent", _no_money(rule, worst, cost)
        else:
            kind = "compute_exceeded"
            owed = _owed(rule, worst, cost)
            left = f"{worst.remaining / 1000:.3f} left"
            if owed:
                left = f"{owed / 1000:.3f} more than that are used and come back first"
            message = (
                f"Rate limit reached for {this(rule)} on {unit} in {describe_seconds(worst.window)} "
                f'(limit "{worst.name}"): Limit {capacity_of(rule)}, {left}, '
                f"this request is estimated at {cost / 1000:.3f}. Please try again in {_exactly(worst.reset)}."
            )
        return Refusal(
            kind, message, route.errors, route.name, retry_after=retry_after, standing=shown(worst, rule), plan=plan
        )

    @staticmethod
    def _no_tokens(rule: LimitRule, worst: Standing, cost: int) -> str:
        limit = capacity_of(rule)
        owed = _owed(rule, worst, cost)
        used = f"{limit - worst.remaining + owed}" + (f" ({owed} of them owed, which come back first)" if owed else "")
        return (
            f"Rate limit reached for {this(rule)} on {rule.quota.unit} in {describe_seconds(worst.window)} "
            f'(limit "{worst.name}"): Limit {limit}, Used {used}, '
            f"Requested {cost}. Please try again in {_exactly(worst.reset)}"
        )

    def _what_fits(self, denial: Deny, reserved: Tokens, asked: Asked) -> str:
        """Say how long an answer would fit at once, where that is worth saying."""
        left = [_ENDLESS] * len(MEASURES)
        for standing in denial.violated:
            measure = measure_of(self._rules[standing.name])
            if measure >= TOKEN_MEASURES and measure != MONEY:
                return ""
            left[measure] = min(left[measure], standing.remaining)
        fits = self.largest(tuple(left), reserved, asked)
        return f", or ask for at most {fits} tokens an answer" if reserved.output and fits >= LEAST_ANSWER else ""


def _owed(rule: LimitRule, worst: Standing, cost: int) -> int:
    """Say how much was used or is held beyond a quota, so that it has to come back before anything of `cost`.

    Only a quota that comes back evenly is owed anything (see `engine.gcra`): `reset` says how much has to come back.
    """
    if rule.algorithm == "window" or rule.quota.period or worst.remaining:
        return 0
    return max(0, math.ceil(worst.reset * worst.quota / worst.window - cost - _ROUNDING))


def _no_money(rule: LimitRule, worst: Standing, cost: int) -> str:
    quota = rule.quota
    when = f"in {_exactly(worst.reset)}"
    again = f"It begins anew with the next {quota.period} (UTC), {when}." if quota.period else f"Come back {when}."
    budget = f'the budget "{rule.name}" of {this(rule)}, {describe_quota(quota)},'
    if not worst.remaining:
        owed = _owed(rule, worst, cost)
        more = f", and {describe_money(owed, quota.currency)} more, which come back first" if owed else ""
        return f"{budget[0].upper()}{budget[1:]} is spent{more}. {again}"
    left, most = (describe_money(amount, quota.currency) for amount in (worst.remaining, cost))
    return f"Of {budget} {left} are left, and this request may cost {most}. {again}"


def room_in(rules: Sequence[LimitRule]) -> Costs:
    """Say how much one request can hold at most, by each measure, though nothing is used yet."""
    room = [_ENDLESS] * len(MEASURES)
    for rule in rules:
        measure = measure_of(rule)
        if measure >= 0:
            room[measure] = min(room[measure], capacity_of(rule) * scale_of(rule.quota.unit))
    return tuple(room)


def shown(standing: Standing, rule: LimitRule) -> Standing:
    """Write a standing in its quota's unit, rounded down."""
    scale = scale_of(rule.quota.unit)
    if scale == 1:
        return standing
    return standing._replace(quota=standing.quota // scale, remaining=standing.remaining // scale)


def _reset(standing: Standing) -> float:
    return standing.reset


def _exactly(seconds: float) -> str:
    """Write a wait as OpenAI does: 11.054s, 620ms, 6m0s; rounded up."""
    thousandths = max(1, math.ceil(seconds * 1000))
    if thousandths < 1000:
        return f"{thousandths}ms"
    if thousandths < 60_000:
        return f"{thousandths / 1000:g}s"
    minutes, rest = divmod(math.ceil(thousandths / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
