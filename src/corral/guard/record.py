"""What is known of a request once it has ended: the source of the log line and of the metrics."""

from typing import NamedTuple, Protocol

from corral.guard.traces.context import TraceContext


class Finished(NamedTuple):
    """One request, ended. Holds no prompt and no key.

    `at` is wall time (seconds since the epoch) of its head's arrival; `client` the key's name, or "" without a key;
    `address` the client's address as counted (an IPv6 /64 as its prefix); `route` the dialect's route name, or
    "unknown"; `status` the status sent, 0 if none could be (the client left); `refused` the problem's kind if the
    guard itself answered, else ""; `limit` the limit that refused, else ""; durations in seconds; token counts and
    `compute_ms` as the server reported them, -1 where it did not (`completion_tokens` of a stream is then what the
    guard counted); `ending` is one of "answered", "refused", "client-left", "upstream-failed", "timed-out", and
    "cut-off" where the guard ended an answer that had more tokens or bytes than it may have, or "cancelled" where
    whoever runs the guard ended it; `plan` the client's plan, "" without one; `trace` what its spans need, None where
    it is not traced; `shadow` what would have refused it and is in shadow (`shadow.logged`), else "".
    """

    at: float
    request_id: str
    client: str
    address: str
    method: str
    route: str
    status: int
    refused: str
    limit: str
    stream: bool
    waited: float
    first_byte: float
    duration: float
    bytes_in: int
    bytes_out: int
    prompt_tokens: int
    completion_tokens: int
    compute_ms: float
    ending: str
    plan: str = ""
    trace: TraceContext | None = None
    shadow: str = ""


class RecordSink(Protocol):
    """Where records go. Neither call blocks or raises."""

    def record(self, finished: Finished) -> None:
        """Take one record."""
        ...

    def flush(self) -> None:
        """Pass on what was taken; called a few times a second."""
        ...
