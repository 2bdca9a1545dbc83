"""FastAPI with slowapi and httpx2 on uvicorn: what the usual recipe for a rate-limited proxy comes to."""

import sys
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.contestants.contestant import Setup
from benchmarks.upstream import Upstream


class Slowapi:
    """One uvicorn worker on uvloop and httptools, limits by address, one shared client with keep-alive."""

    name = "slowapi"
    conditions = (
        "one uvicorn worker (uvloop, httptools), slowapi by address (refused: 1/minute; else 1,000,000/second), "
        "one shared httpx2.AsyncClient with keep-alive; no keys, no validation, no log"
    )

    def set_up(self, case: Case, port: int, upstream: Upstream, folder: Path) -> Setup:
        """Start the application of `slowapi_app.py`; it needs no files. -P: this folder holds its namesakes."""
        del folder
        limit = "1/minute" if case.refuses else "1000000/second"
        application = Path(__file__).with_name("slowapi_app.py")
        return Setup((sys.executable, "-P", str(application), str(port), upstream.url, limit), {})
