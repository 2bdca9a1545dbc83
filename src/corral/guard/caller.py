"""Who makes a request, what its connection has shown so far, and what the request took when it was let in."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from corral.dialects.model import Asked, Route
from corral.engine.decision import Deny, Reservation, Standing
from corral.guard.credentials import Credential
from corral.policy.model import Plan
from corral.stores import Binding

if TYPE_CHECKING:
    from corral.guard.pipeline import Pipeline
    from corral.guard.refusal import Refusal
    from corral.guard.shadow import Shadowed
    from corral.guard.token_quota import TokenHold

Head = Mapping[bytes, bytes]
"""A request's header fields, by their names in small letters."""


class BodyLimits(NamedTuple):
    """What counts a caller once the model is known: its requests, and what they hold while they run."""

    requests: Binding
    held: Binding


class Caller:
    """Who makes a request: the address as counted, its credential and plan if it has them, and the limits that count.

    What is known of it holds until `valid_until`, and while the authenticator is in this `generation`.

    A caller that was denied stays denied until the time it was told, so until then it is refused without asking the
    store again: 0.2 µs for a request of a flood instead of 2.7 µs. What is given back meanwhile counts from then on.

    Where a limit counts routes or models apart, `routes` has the same caller as it is counted on each route, and
    `models` what counts its requests for each model. Both are bounded: by the dialect, and by what the policy names.
    """

    __slots__ = ("address", "denial", "denied_until", "generation", "key", "limits", "models", "plan", "route",
                 "routes", "token_limits", "told", "told_until", "valid_until")  # fmt: skip

    def __init__(
        self, address: str, key: Credential | None, limits: Binding, *, plan: Plan | None = None,
        valid_until: float = math.inf, generation: int = 0, token_limits: Binding = (), route: str = "",
    ) -> None:  # fmt: skip
        self.address = address
        self.key = key
        self.limits = limits
        self.token_limits = token_limits
        self.plan = plan
        self.route = route
        self.routes: dict[str, Caller] = {}
        self.models: dict[str, BodyLimits] = {}
        self.valid_until = valid_until
        self.generation = generation
        self.denied_until = 0.0
        self.denial: Deny | None = None
        self.told: Refusal | None = None
        self.told_until = 0.0


class Session:
    """What one connection has shown so far, so that a keep-alive client is not identified anew each time."""

    __slots__ = ("address", "api_key", "authorization", "caller", "peer")

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.address = peer
        self.authorization: bytes | None = None
        self.api_key: bytes | None = None
        self.caller: Caller | None = None


class Visit:
    """A request that was admitted by its head: what it is, who makes it, and what it took.

    `needs_place` says whether it keeps a slot of the server busy, `cap` how many tokens it was granted (0 where it
    generates none), `tokens` what it holds of the token quotas until it has ended, `shadow` what would have refused it
    and is in shadow. Whatever follows is decided by the `pipeline` that it entered, though another policy may be in
    force by then.
    """

    __slots__ = (
        "asked", "caller", "cap", "needs_place", "pipeline", "reservation", "route", "shadow", "standing", "tokens",
    )  # fmt: skip

    def __init__(
        self, pipeline: "Pipeline", route: Route, caller: Caller, reservation: Reservation, standing: Standing | None,
        shadow: "tuple[Shadowed, ...]" = (),
    ) -> None:  # fmt: skip
        self.pipeline = pipeline
        self.shadow = shadow
        self.route = route
        self.caller = caller
        self.reservation = reservation
        self.standing = standing
        self.asked: Asked | None = None
        self.cap = 0
        self.tokens: TokenHold | None = None
        self.needs_place = route.needs_place
