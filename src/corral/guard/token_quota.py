"""Token quotas on a request's way: what it holds while it runs, and what it is charged when it has ended.

There is one of these where the policy has a limit on tokens, and none where it has not: then nothing is counted, and
nothing takes time.
"""

import math
from collections.abc import Sequence
from typing import Any

import orjson

from corral.dialects.model import Asked, Route, Usage
from corral.engine.decision import Deny, Hold, Standing
from corral.engine.estimate import Corrections, estimate
from corral.engine.limit import capacity_of, measure_of
from corral.engine.tokens import FREE, MEASURES, Tokens, costs, reserve, settle
from corral.guard.refusal import Refusal
from corral.policy.model import LimitRule, Policy
from corral.policy.plans import all_limits, limits_of
from corral.policy.whose import this
from corral.stores import Binding, Store

LEAST_ANSWER = 16
"""The fewest tokens that a whole quota must leave for each answer where the client named no maximum of its own."""

_ENDLESS = 1 << 60


class TokenHold:
    """What one request holds: the hold itself, what was reserved, and what its prompt was estimated to be.

    `cap` is the most tokens that each answer may have; `left` is the token limit that stands tightest now that it runs.
    """

    __slots__ = ("cap", "estimated", "hold", "left", "model", "reserved")

    def __init__(self, hold: Hold, cap: int, reserved: Tokens, estimated: float, model: str | None) -> None:
        self.hold = hold
        self.left: Standing | None = hold.tightest
        self.cap = cap
        self.reserved = reserved
        self.estimated = estimated
        self.model = model


class TokenQuota:
    """Holds tokens for requests by one policy, and charges them. `store` counts `all_limits` of the policy."""

    def __init__(self, policy: Policy, store: Store) -> None:
        limits = all_limits(policy)
        self._store = store
        self._rules = {rule.name: rule for rule in limits if rule.quota.counts_tokens}
        self._room = {name: _room(limits_of(policy, name)) for name in (None, *policy.plan)}
        self.corrections = Corrections()

    @staticmethod
    def of(policy: Policy, store: Store) -> "TokenQuota | None":
        """Build what counts tokens; None where no limit of the policy does."""
        return TokenQuota(policy, store) if any(rule.quota.counts_tokens for rule in all_limits(policy)) else None

    def reserve(
        self, client: Binding, route: Route, asked: Asked, cap: int, prepared: bytes, *, plan: str | None, now: float
    ) -> TokenHold | Refusal:
        """Hold what a request may use: its prompt as estimated, and `cap` tokens for each answer.

        `prepared` is the body that the server would get. Where `cap` is more than the whole quota has, a client that
        named no maximum gets what it has, LEAST_ANSWER at least; what a client asks for is never shrunk, and nothing
        is for want of what others use just now. A refused request holds nothing.
        """
        estimated = estimate(prepared, asked.prompt_chars)
        prompt = self.corrections.correct(asked.model, estimated)
        reserved = reserve(prompt, cap, asked.choices)
        wanted = costs(reserved)
        room = self._room[plan]
        if wanted[0] > room[0] or wanted[1] > room[1] or wanted[2] > room[2]:
            largest = _largest(room, prompt, asked.choices)
            if asked.max_tokens is not None or not LEAST_ANSWER <= largest < cap:
                return self._never(route, asked, reserved, plan)
            cap = largest
            reserved = reserve(prompt, cap, asked.choices)
            wanted = costs(reserved)
        outcome = self._store.hold(client, now, wanted)
        if isinstance(outcome, Deny):
            return self._not_now(route, asked, reserved, outcome, plan)
        return TokenHold(outcome, cap, reserved, estimated, asked.model)

    def settle(self, held: TokenHold, usage: Usage | None, now: float) -> None:
        """Charge what the server reports to have used; what it does not report is charged as it was reserved."""
        prompt = completion = None
        if usage is not None:
            prompt, completion = usage.prompt_tokens, usage.completion_tokens
            if prompt is not None:
                self.corrections.learn(held.model, held.estimated, prompt)
        self._store.settle(held.hold, now, costs(settle(held.reserved, prompt, completion)))

    def release(self, held: TokenHold, now: float) -> None:
        """Let everything go: the server never worked on the request."""
        self._store.settle(held.hold, now, FREE)

    def _never(self, route: Route, asked: Asked, reserved: Tokens, plan: str | None) -> Refusal:
        """Refuse a request that is larger than a whole quota: no waiting helps."""
        room = self._room[plan]
        wanted = costs(reserved)
        measure = next(index for index in range(3) if wanted[index] > room[index])
        largest = _largest(room, reserved.input, asked.choices)
        if reserved.output and largest >= 1:
            advice = f"Ask for at most {largest} tokens an answer"
        else:
            advice = "Send a shorter prompt"
        message = (
            f"This request can never fit: Limit {room[measure]}, Requested {wanted[measure]} {MEASURES[measure]} "
            f"(about {reserved.input} for the prompt, {reserved.output} for the answer). {advice}."
        )
        param = "max_tokens" if reserved.output and largest >= 1 else None
        return Refusal("exceeds_quota", message, route.errors, route.name, param)

    def _not_now(self, route: Route, asked: Asked, reserved: Tokens, denial: Deny, plan: str | None) -> Refusal:
        """Refuse a request that does not fit into what is left, and say when it will, or what would fit now."""
        worst = max(denial.violated, key=_reset)
        rule = self._rules[worst.name]
        limit = capacity_of(rule)
        message = (
            f"Rate limit reached for {this(rule)} on {rule.quota.unit} in {worst.window:g} seconds "
            f'(limit "{worst.name}"): Limit {limit}, Used {limit - worst.remaining}, '
            f"Requested {costs(reserved)[measure_of(rule)]}. Please try again in {_exactly(worst.reset)}"
        )
        left = [_ENDLESS, _ENDLESS, _ENDLESS]
        for standing in denial.violated:
            measure = measure_of(self._rules[standing.name])
            left[measure] = min(left[measure], standing.remaining)
        fits = _largest((left[0], left[1], left[2]), reserved.input, asked.choices)
        if reserved.output and fits >= LEAST_ANSWER:
            message += f", or ask for at most {fits} tokens an answer"
        return Refusal(
            "tokens_exceeded", message + ".", route.errors, route.name,
            retry_after=denial.retry_after, standing=worst, plan=plan,
        )  # fmt: skip


def reclamp(route: Route, prepared: bytes, cap: int) -> bytes:
    """Write a prepared body anew, with `cap` as its maximum."""
    value: dict[str, Any] = orjson.loads(prepared)
    assert route.form is not None
    route.form.clamp(value, cap)
    return orjson.dumps(value)


def _room(rules: Sequence[LimitRule]) -> tuple[int, int, int]:
    """Say how much one request can hold at most, by each measure, though nothing is used yet."""
    room = [_ENDLESS, _ENDLESS, _ENDLESS]
    for rule in rules:
        measure = measure_of(rule)
        if measure >= 0:
            room[measure] = min(room[measure], capacity_of(rule))
    return room[0], room[1], room[2]


def _largest(room: tuple[int, int, int], prompt: int, answers: int) -> int:
    """Say how many tokens each answer may have beside a prompt; negative or 0 where none fits."""
    if prompt > room[1]:
        return 0
    return min(room[0] - prompt, room[2]) // answers


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
