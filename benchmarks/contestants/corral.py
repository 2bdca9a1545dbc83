"""Corral's guard: keys, quotas, validation, clamping, places and log, as its users run it."""

import sys
from hashlib import sha256
from pathlib import Path

from benchmarks.cases import CASES, KEY, Case
from benchmarks.contestants.contestant import Setup
from benchmarks.processes import free_port
from benchmarks.upstream import Upstream

_POLICY = """\
auth = "keys"

[[keys]]
name = "benchmark"
sha256 = "{digest}"

[[limits]]
name = "client"
quota = "{client}"
per = "client"

[[limits]]
name = "address"
quota = "100000/second"
per = "address"
{more}
[upstream]
max_connections = 160

[concurrency]
max_running = 128
max_waiting = 128

[log]
format = "json"

[credentials]
store = ""
"""

_EVERYTHING = """
[[limits]]
name = "day"
quota = "1000000000/day"
per = "client"
algorithm = "window"

[[limits]]
name = "all"
quota = "100000/second"
per = "everyone"

[[limits]]
name = "tokens"
quota = "1000000000 tokens/second"
per = "client"

[admin]
listen = "127.0.0.1:{admin}"
"""


_COMPILED = Path(__file__).parents[2] / "build" / "compiled"


class Corral:
    """One process, two limits on every request, one of them spent where it refuses."""

    name = "corral"
    conditions = (
        "one process, its hot modules compiled as in a wheel; a key is demanded, two quotas counted (refused: client "
        "1/minute; else 100,000/second each), 128 places so that nobody waits; bodies parsed, checked, clamped and "
        "written anew; JSON log to a file"
    )
    _environment: tuple[str, ...] = ("env", f"PYTHONPATH={_COMPILED}")

    @property
    def missing(self) -> str:
        """Name what is not there: the compiled modules, before `make compiled`."""
        return "" if next(_COMPILED.rglob("gateway/exchange.*.so"), None) else "the compiled build (make compiled)"

    def plays(self, case: Case) -> bool:
        """Tell that it takes part in everything."""
        del case
        return True

    def set_up(self, case: Case, port: int, upstream: Upstream, folder: Path) -> Setup:
        """Write the policy."""
        policy = _POLICY.format(
            digest=sha256(KEY.encode()).hexdigest(),
            client="1/minute" if case.refuses else "100000/second",
            more=self._more(),
        )
        command = (
            *self._environment,
            str(Path(sys.executable).with_name("corral")),
            "guard",
            upstream.url,
            "--listen",
            f"127.0.0.1:{port}",
            "--policy",
            str(folder / "corral.toml"),
            "--log",
            str(folder / "access.jsonl"),
        )
        return Setup(command, {"corral.toml": policy})

    def _more(self) -> str:
        return ""


class Everything(Corral):
    """The same with everything on: four quotas of requests and one of tokens, and metrics."""

    name = "corral-everything"
    conditions = (
        "the same with two more quotas of requests (by day, and of everyone together), a quota of tokens that is held "
        "and settled for every request, and metrics"
    )

    def _more(self) -> str:
        return _EVERYTHING.format(admin=free_port())


class Interpreted(Corral):
    """Corral without the compiled modules, as where there is no wheel for the platform."""

    name = "corral-interpreted"
    conditions = "as corral, every module interpreted"
    missing = ""
    _environment = ()

    def plays(self, case: Case) -> bool:
        """Tell that it takes part in what the bars speak of."""
        return case in CASES
