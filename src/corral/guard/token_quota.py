"""Quotas on what requests use: what each holds while it runs, and what it is charged when it has ended.

Tokens, computing time, money, and places among those that run at once. There is one of these where the policy has a
limit on any of them, and none where it has not: then nothing is counted, and nothing takes time.
"""

# ruff: noqa: SLF001  # who takes over is given what its predecessor, of the same class, has learnt

import math
from typing import Any

import orjson

from corral.dialects.model import Asked, Route, Usage
from corral.engine.compute import ComputeRates
from corral.engine.decision import Deny, Hold, Standing
from corral.engine.estimate import Corrections, estimate
from corral.engine.measures import COMPUTE, FREE, MONEY, Costs
from corral.engine.price import Prices
from corral.engine.tokens import Tokens, costs, reserve, settle
from corral.guard.held_refusals import LEAST_ANSWER, HeldRefusals, room_in, shown
from corral.guard.refusal import Refusal
from corral.policy.model import Policy
from corral.policy.plans import all_limits, limits_of
from corral.stores import Binding, Store

_LONGEST = 1e12
"""Milliseconds beyond which nobody has computed: what reports more reports nothing."""

_TYPICAL = 2.0
"""Seconds that a request takes before any was measured."""

_FOLLOW = 0.1

_LEAST_PROMPT = 1
"""What every prompt has, whatever its server makes of it: one token may stand for a long text."""


class TokenHold:
    """What one request holds: the hold itself, what was reserved, and what its prompt was estimated to be.

    `cap` is the most tokens that each answer may have; `left` is the limit on tokens that stands tightest now that it
    runs, and `other` that among the limits on anything else. `compute` is how many milliseconds of the server's it
    holds, `since` when it began. `client` is whose limits count, and `more` what was held when the prompt turned out to
    be longer than estimated. `uncounted` says that of its prompt only the least is held, until it has been counted.
    """

    __slots__ = (
        "cap", "client", "compute", "estimated", "hold", "left", "model", "more", "other", "reserved", "since",
        "uncounted",
    )  # fmt: skip

    def __init__(
        self, client: Binding, hold: Hold, cap: int, reserved: Tokens, estimated: float, model: str | None,
        compute: int, since: float,
    ) -> None:  # fmt: skip
        self.client = client
        self.more: Hold | None = None
        self.hold = hold
        self.left: Standing | None = hold.tightest
        self.other: Standing | None = None
        self.cap = cap
        self.reserved = reserved
        self.estimated = estimated
        self.model = model
        self.compute = compute
        self.since = since
        self.uncounted = False


class TokenQuota:
    """Holds for requests by one policy, and charges them. `store` counts `all_limits` of the policy."""

    def __init__(self, policy: Policy, store: Store) -> None:
        self._store: Store = store
        self._rules = {rule.name: rule for rule in all_limits(policy) if rule.quota.unit != "requests"}
        units = {rule.quota.unit for rule in self._rules.values()}
        self._rates = ComputeRates() if "gpu-seconds" in units else None
        self._prices = Prices(policy.price) if "cost" in units else None
        self._tokens_alone = all(rule.quota.counts_tokens for rule in self._rules.values())
        self._counts_use = units != {"concurrent requests"}
        limits = {name: limits_of(policy, name) for name in (None, *policy.plan)}
        self._room = {name: room_in([r for r in rules if not r.shadow]) for name, rules in limits.items()}
        self._in_shadow = any(rule.shadow for rule in self._rules.values())
        self._shadow_room = {name: room_in(rules) for name, rules in limits.items()}
        self._exact = frozenset(name for name, rules in limits.items() if any(rule.exact for rule in rules))
        """The plans whose clients' prompts the server counts."""
        self._refusals = HeldRefusals(self._rules, self._prices)
        self._typical = _TYPICAL
        self.corrections = Corrections()

    @staticmethod
    def of(policy: Policy, store: Store) -> "TokenQuota | None":
        """Build what counts what requests use; None where no limit of the policy does."""
        counts = any(rule.quota.unit != "requests" for rule in all_limits(policy))
        return TokenQuota(policy, store) if counts else None

    def succeeded(self, store: Store, successor: "TokenQuota | None") -> None:
        """Count in `store` from now on; `successor` goes on with what was learnt of the models' prompts."""
        self._store = store
        if successor is not None:
            successor.corrections = self.corrections
            successor._typical = self._typical
            if self._rates is not None and successor._rates is not None:
                successor._rates = self._rates

    def reserve(
        self, client: Binding, route: Route, asked: Asked, cap: int, prepared: bytes, *, plan: str | None, now: float
    ) -> TokenHold | Refusal:
        """Hold what a request may use: its prompt as estimated, and `cap` tokens for each answer.

        `prepared` is the body that the server would get. Where `cap` is more than the whole quota has, a client that
        named no maximum gets what it has, LEAST_ANSWER at least; what a client asks for is never shrunk, and nothing
        is for want of what others use just now. A refused request holds nothing.

        Where the server is to count the prompt, the least that it can be is held, and `adjust` is to follow.
        """
        estimated = estimate(prepared, asked.prompt_chars) if self._counts_use else 0.0
        prompt = self.corrections.correct(asked.model, estimated)
        uncounted = bool(self._exact) and plan in self._exact and route.counter is not None
        if uncounted:
            prompt = _LEAST_PROMPT
        reserved = reserve(prompt, cap, asked.choices)
        room = self._room[plan]
        wanted = costs(reserved) if self._tokens_alone else self._wanted(asked.model, reserved, room)
        dear = self._prices is not None and wanted[MONEY] > room[MONEY]
        if wanted[0] > room[0] or wanted[1] > room[1] or wanted[2] > room[2] or dear:
            smaller = self._smaller(route, asked, cap, reserved, wanted, room, counted=not uncounted)
            if type(smaller) is Refusal:
                return smaller
            assert isinstance(smaller, int)
            cap = smaller
            reserved = reserve(prompt, cap, asked.choices)
            wanted = costs(reserved) if self._tokens_alone else self._wanted(asked.model, reserved, room)
        in_shadow = (
            self._if_in_force(asked, cap, reserved, wanted, self._shadow_room[plan]) if self._in_shadow else None
        )
        outcome = self._store.hold(client, now, wanted, in_shadow)
        if isinstance(outcome, Deny):
            return self._refusals.not_now(
                route, asked, reserved, wanted, outcome, plan=plan, typical=self._typical, counted=not uncounted
            )  # fmt: skip
        compute = 0 if self._rates is None else wanted[COMPUTE]
        held = TokenHold(client, outcome, cap, reserved, estimated, asked.model, compute, now)
        if outcome.other is not None:
            held.other = shown(outcome.other, self._rules[outcome.other.name])
        held.uncounted = uncounted
        return held

    def _if_in_force(self, asked: Asked, cap: int, reserved: Tokens, wanted: Costs, room: Costs) -> Costs:
        """Say what a request would hold if the limits in shadow were in force, which `room` has too.

        As `reserve` has it: an estimate of time is no more than the quota, and who named no maximum gets less.
        """
        dear = self._prices is not None and wanted[MONEY] > room[MONEY]
        if wanted[0] > room[0] or wanted[1] > room[1] or wanted[2] > room[2] or dear:
            largest = self._refusals.largest(room, reserved, asked)
            if asked.max_tokens is None and LEAST_ANSWER <= largest < cap:
                reserved = reserve(reserved.input, largest, asked.choices)
        return costs(reserved) if self._tokens_alone else self._wanted(asked.model, reserved, room)

    def _smaller(
        self,
        route: Route,
        asked: Asked,
        cap: int,
        reserved: Tokens,
        wanted: Costs,
        room: Costs,
        *,
        counted: bool = True,
    ) -> int | Refusal:
        """Find the most tokens that each answer may have in the whole quota, which has no room for `cap`."""
        largest = self._refusals.largest(room, reserved, asked)
        if asked.max_tokens is not None or not LEAST_ANSWER <= largest < cap:
            return self._refusals.never(route, asked, reserved, wanted, room, counted=counted)
        return largest

    def adjust(
        self, held: TokenHold, route: Route, asked: Asked, counted: int | None, *, plan: str | None, now: float
    ) -> Refusal | None:
        """Hold a prompt as the server has counted it, instead of the least; None is as it is estimated.

        `held.cap` may become less, as `reserve` says. After a refusal the request holds what it held: let it go.
        """
        held.uncounted = False
        prompt = (
            self.corrections.correct(asked.model, held.estimated) if counted is None else max(_LEAST_PROMPT, counted)
        )
        cap, room = held.cap, self._room[plan]
        reserved = reserve(prompt, cap, asked.choices)
        wanted = self._wanted(asked.model, reserved, room)
        if any(wanted[measure] > room[measure] for measure in (0, 1, 2, MONEY)):
            smaller = self._smaller(route, asked, cap, reserved, wanted, room)
            if isinstance(smaller, Refusal):
                return smaller
            cap = smaller
            reserved = reserve(prompt, cap, asked.choices)
            wanted = self._wanted(asked.model, reserved, room)
        in_shadow = (
            self._if_in_force(asked, cap, reserved, wanted, self._shadow_room[plan]) if self._in_shadow else None
        )
        denial = self._store.adjust(held.hold, now, wanted, in_shadow)
        if denial is not None:
            return self._refusals.not_now(
                route, asked, reserved, wanted, denial, plan=plan, typical=self._typical
            )  # fmt: skip
        held.cap, held.reserved, held.compute = cap, reserved, 0 if self._rates is None else wanted[COMPUTE]
        held.left = held.hold.tightest
        other = held.hold.other
        held.other = None if other is None else shown(other, self._rules[other.name])
        return None

    def _wanted(self, model: str | None, reserved: Tokens, room: Costs) -> Costs:
        """Say what a request holds by every measure. An estimate of time is never more than the whole quota."""
        compute = 0 if self._rates is None else min(self._rates.estimate(model, reserved), room[COMPUTE])
        return self._all_costs(model, reserved, compute)

    def _all_costs(self, model: str | None, tokens: Tokens, compute: int) -> Costs:
        money = 0 if self._prices is None else self._prices.cost(model, tokens)
        return (*costs(tokens), 1, compute, money)

    def hold_prompt(self, held: TokenHold, prompt: int, now: float) -> int:
        """Hold what a running request's prompt has beyond its estimate, now that the server has counted `prompt`.

        Returns how many tokens are left for all its answers: as many as were reserved, unless the quota has no more
        for the prompt. Then the prompt takes them from the answers.
        """
        reserved = held.reserved
        excess = prompt - reserved.input
        if excess <= 0 or held.more is not None:
            return reserved.output
        beyond = Tokens(excess, 0)
        money = 0 if self._prices is None else self._prices.cost(held.model, beyond)
        # It is the same request still, and its time is estimated as it was.
        wanted: Costs = costs(beyond) if self._tokens_alone else (*costs(beyond), 0, 0, money)
        outcome = self._store.hold(held.client, now, wanted)
        if isinstance(outcome, Deny):
            return max(reserved.output - excess, 0)
        held.more = outcome
        return reserved.output

    def settle(self, held: TokenHold, usage: Usage | None, now: float) -> None:
        """Charge what the server reports to have used; what it does not report is charged as it was reserved."""
        prompt = completion = None
        if usage is not None:
            prompt, completion = usage.prompt_tokens, usage.completion_tokens
            if prompt is not None:
                self.corrections.learn(held.model, held.estimated, prompt)
        used = settle(held.reserved, prompt, completion)
        self._let_go_of_more(held, now)
        if self._tokens_alone:
            self._store.settle(held.hold, now, costs(used))
            return
        self._typical += _FOLLOW * (max(0.0, now - held.since) - self._typical)
        compute = held.compute
        if self._rates is not None and usage is not None and (completion is not None or not held.reserved.output):
            measured = usage.compute_ms
            if measured is not None and 0.0 <= measured < _LONGEST:
                compute = math.ceil(measured)
                if prompt is not None:
                    self._rates.learn(held.model, used, measured)
        self._store.settle(held.hold, now, self._all_costs(held.model, used, compute))

    def release(self, held: TokenHold, now: float) -> None:
        """Let everything go: the server never worked on the request."""
        self._let_go_of_more(held, now)
        self._store.settle(held.hold, now, FREE)

    def _let_go_of_more(self, held: TokenHold, now: float) -> None:
        more, held.more = held.more, None
        if more is not None:
            self._store.settle(more, now, FREE)


def reclamp(route: Route, prepared: bytes, cap: int) -> bytes:
    """Write a prepared body anew, with `cap` as its maximum."""
    value: dict[str, Any] = orjson.loads(prepared)
    assert route.form is not None
    route.form.clamp(value, cap)
    return orjson.dumps(value)
