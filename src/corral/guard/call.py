"""One request at the door of an application, from its head to the end of its answer."""

from contextvars import ContextVar
from typing import TYPE_CHECKING

from corral.guard.caller import Session, Visit
from corral.guard.gateway.incoming import Incoming
from corral.guard.shadow import Shadowed

if TYPE_CHECKING:
    from collections.abc import Callable

    from corral.engine.decision import Standing
    from corral.guard.answer_usage import AnswerUsage
    from corral.guard.credentials import Credential
    from corral.guard.refusal import Refusal
    from corral.guard.traces.context import TraceContext
    from corral.policy.model import LimitRule


class Call:
    """What is known of a request. A ticket of its guard's admission.

    `address` and `key` say who makes it; `visit` is None where the guard does not judge it (`unknown="pass"`).
    `over` is set once a limit of the application's own has refused it: then its answer is 429, whatever becomes of the
    exception. `standings` are such limits, and how they stand where they let it pass; `undo` gives back what they
    charged; `shadow` are those in shadow that would have refused. `queued` says that it has asked for a place, so that
    it must be ended with the admission; `overdue` that it has waited for one as long as it may.
    """

    __slots__ = (
        "address", "arrived", "bytes_in", "ended", "first_byte", "incoming", "key", "over", "overdue", "place_at",
        "queued", "queued_at", "request_id", "session", "shadow", "standings", "status", "trace", "undo",
        "usage", "visit", "wall",
    )  # fmt: skip

    def __init__(self, incoming: Incoming, session: Session, *, request_id: str, arrived: float, wall: float) -> None:
        self.incoming = incoming
        self.session = session
        self.request_id = request_id
        self.arrived = arrived
        self.wall = wall
        self.address = session.address
        self.key: Credential | None = None
        self.visit: Visit | None = None
        self.trace: TraceContext | None = None
        self.over: Refusal | None = None
        self.standings: list[tuple[LimitRule, Standing | None]] = []
        self.shadow: list[Shadowed] = []
        self.undo: list[Callable[[], None]] = []
        self.usage: AnswerUsage | None = None
        self.bytes_in = 0
        self.queued = False
        self.overdue = False
        self.queued_at = 0.0
        self.place_at = 0.0
        self.first_byte = 0.0
        self.status = 0
        self.ended = False

    def shadowed(self) -> tuple[Shadowed, ...]:
        """Say what would have refused the request and is in shadow: of the policy, and of the application."""
        return (*(() if self.visit is None else self.visit.shadow), *self.shadow)

    @property
    def plan(self) -> str | None:
        """The name of the plan that the client is on."""
        return None if self.key is None else self.key.plan


CURRENT: ContextVar[Call | None] = ContextVar("corral_call", default=None)
"""The request that is being served here; None outside of one, and where no guard is installed."""
