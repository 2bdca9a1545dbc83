"""One request as the scanner saw it, and what kind of answer it was."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Reply(Enum):
    """What an answer means, whoever gave it."""

    ALLOW = "allow"
    DENY = "deny"
    OVERLOAD = "overload"
    AUTH = "auth"
    REJECT = "reject"
    FAULT = "fault"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Observation:
    """What was sent, and what came back.

    `status` is None where no answer came; `headers` have lower-case names; `body` is its beginning; times are in
    seconds from the intended send; `events` counts the streamed tokens; `ended` tells whether the answer was read to
    its end; `early` whether it came before the request had been sent whole; `connected` is False where not even a
    connection was had.
    """

    sent: str
    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    first_byte: float = 0.0
    seconds: float = 0.0
    events: int = 0
    ended: bool = True
    early: bool = False
    error: str = ""
    connected: bool = True

    @property
    def reply(self) -> Reply:
        """Classify the answer. 503 with Retry-After is a denial, a bare 503 an overload; a redirect serves nothing."""
        status = self.status
        if status is None:
            return Reply.DEAD
        if status < 300:
            return Reply.ALLOW
        if status in (429, 529) or (status == 503 and "retry-after" in self.headers):
            return Reply.DENY
        if status in (401, 403):
            return Reply.AUTH
        if status == 503:
            return Reply.OVERLOAD
        return Reply.FAULT if status >= 500 else Reply.REJECT

    def told(self) -> str:
        """Say in a line what was sent and what came back."""
        if self.status is None:
            return f"{self.sent} → no answer ({self.error or 'connection closed'}) in {self.seconds:.2f} s"
        return f"{self.sent} → {self.status} in {self.seconds:.2f} s"
