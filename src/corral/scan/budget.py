"""What a scan may spend. What is not there is not sent."""

from time import monotonic


class BudgetSpentError(Exception):
    """The next request would exceed the budget; the check that wanted it has seen all that it will see."""


class Budget:
    """Requests, tokens asked for, and seconds. Each is reserved before it is spent, and never exceeded."""

    def __init__(self, requests: int = 200, tokens: int = 40_000, seconds: float = 120.0) -> None:
        self._requests = requests
        self._tokens = tokens
        self._seconds = seconds
        self._began = monotonic()
        self.requests = 0
        self.tokens = 0

    @property
    def seconds(self) -> float:
        """Seconds since the scan began."""
        return monotonic() - self._began

    @property
    def seconds_left(self) -> float:
        """Seconds until the scan must end."""
        return max(0.0, self._seconds - self.seconds)

    def reserve(self, tokens: int = 0) -> None:
        """Take one request that may cost `tokens`. Raises BudgetSpentError, having taken nothing."""
        if self.requests >= self._requests or self.tokens + tokens > self._tokens or not self.seconds_left:
            raise BudgetSpentError
        self.requests += 1
        self.tokens += tokens

    def refund(self, tokens: int) -> None:
        """Return tokens that were reserved and not generated."""
        self.tokens -= tokens
