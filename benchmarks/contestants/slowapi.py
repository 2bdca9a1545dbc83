"""FastAPI with slowapi and an HTTP client on uvicorn: what the usual recipe for a rate-limited proxy comes to."""

import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.cases import CASES, Case
from benchmarks.contestants.contestant import Setup
from benchmarks.upstream import Upstream


class Slowapi:
    """One uvicorn worker on uvloop and httptools, limits by address, one shared client with keep-alive."""

    def __init__(self, name: str, client: str) -> None:
        self.name = name
        self._client = client
        self.conditions = (
            "one uvicorn worker (uvloop, httptools), slowapi by address (refused: 1/minute; else 1,000,000/second), "
            f"one shared {client}.AsyncClient with keep-alive; no keys, no validation, no log"
        )

    @property
    def missing(self) -> str:
        """Name the client library if it is not installed."""
        return "" if find_spec(self._client) else self._client

    def plays(self, case: Case) -> bool:
        """Tell that it takes part in what the bars speak of: it is slow enough to take most of the time."""
        return case in CASES

    def set_up(self, case: Case, port: int, upstream: Upstream, folder: Path) -> Setup:
        """Start the application of `slowapi_app.py`; it needs no files. -P: this folder holds its namesakes."""
        del folder
        limit = "1/minute" if case.refuses else "1000000/second"
        application = Path(__file__).with_name("slowapi_app.py")
        return Setup((sys.executable, "-P", str(application), str(port), upstream.url, limit, self._client), {})
