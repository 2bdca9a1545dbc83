"""Corral's guard: keys, quotas, validation, clamping, places and log, as its users run it."""

import sys
from hashlib import sha256
from pathlib import Path

from benchmarks.cases import KEY, Case
from benchmarks.contestants.contestant import Setup
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
quota = "1000000/second"
per = "address"

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


_COMPILED = Path(__file__).parents[2] / "build" / "compiled"


class Corral:
    """One process, two limits on every request, one of them spent where it refuses."""

    name = "corral"
    conditions = (
        "one process, its hot modules compiled as in a wheel; a key is demanded, two quotas counted (refused: client "
        "1/minute; else 1,000,000/second each), 128 places so that nobody waits; bodies parsed, checked, clamped and "
        "written anew; JSON log to a file"
    )
    _environment: tuple[str, ...] = ("env", f"PYTHONPATH={_COMPILED}")

    @property
    def missing(self) -> str:
        """Name what is not there: the compiled modules, before `make compiled`."""
        return "" if next(_COMPILED.rglob("pipeline.*.so"), None) else "the compiled build (make compiled)"

    def set_up(self, case: Case, port: int, upstream: Upstream, folder: Path) -> Setup:
        """Write the policy."""
        policy = _POLICY.format(
            digest=sha256(KEY.encode()).hexdigest(),
            client="1/minute" if case.refuses else "1000000/second",
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


class Interpreted(Corral):
    """The same without the compiled modules, as where there is no wheel for the platform."""

    name = "corral-interpreted"
    conditions = "the same, every module interpreted"
    missing = ""
    _environment = ()
