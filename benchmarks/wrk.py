"""The load generator: a script for wrk, one run, and what wrk says of it."""

import json
import os
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import KEY, PATH, Case

_MARK = "wrk-result "

_SCRIPT = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {key}"
wrk.path = "{path}"
{bodies}
function done(summary, latency, requests)
  local failed = summary.errors
  io.write(string.format(
    '{mark}{{"requests":%d,"microseconds":%d,"not_ok":%d,"broken":%d,"p50":%f,"p99":%f}}\\n',
    summary.requests, summary.duration, failed.status,
    failed.connect + failed.read + failed.write + failed.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""

_ONE = "wrk.body = [=[{body}]=]"

_MANY = """\
local bodies = {{{bodies}}}
local formatted, turn = {{}}, 0
function init(args)
  for i, body in ipairs(bodies) do formatted[i] = wrk.format(nil, nil, nil, body) end
end
function request()
  turn = turn % #formatted + 1
  return formatted[turn]
end"""


class WrkError(Exception):
    """wrk could not be run, or said nothing that can be read."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run saw. `not_ok` answers had a status of 400 or more; `broken` is socket errors and time-outs."""

    requests: int
    seconds: float
    not_ok: int
    broken: int
    p50_ms: float
    p99_ms: float
    client_cpu: float
    """Share of its core that wrk used, 0 to 1."""

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


def script(case: Case) -> str:
    """Render the Lua script that sends the requests of `case`."""
    bodies = case.bodies()
    if len(bodies) == 1:
        code = _ONE.format(body=bodies[0])
    else:
        code = _MANY.format(bodies=",".join(f"[=[{body}]=]" for body in bodies))
    return _SCRIPT.format(key=KEY, path=PATH, bodies=code, mark=_MARK)


def parse(output: str, *, cpu_seconds: float = 0.0) -> Load:
    """Read the line that the script writes at the end of a run. Raises WrkError where there is none."""
    for line in output.splitlines():
        if line.startswith(_MARK):
            seen = json.loads(line.removeprefix(_MARK))
            return Load(
                requests=seen["requests"],
                seconds=seen["microseconds"] / 1e6,
                not_ok=seen["not_ok"],
                broken=seen["broken"],
                p50_ms=seen["p50"] / 1e3,
                p99_ms=seen["p99"] / 1e3,
                client_cpu=cpu_seconds / (seen["microseconds"] / 1e6),
            )
    raise WrkError(f"wrk gave no result:\n{output}")


def command(url: str, lua: Path, seconds: float, connections: int) -> Sequence[str]:
    """Build wrk's command line: one thread, and a time-out that the slowest contestant stays within."""
    return ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "20s", "-s", str(lua), url]


def run(url: str, lua: Path, seconds: float, connections: int, core: int) -> Load:
    """Load `url` for `seconds` from `core`."""

    def pin() -> None:
        os.sched_setaffinity(0, {core})

    cpu = _children_cpu()
    try:
        ended = subprocess.run(
            command(url, lua, seconds, connections),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 60,
            preexec_fn=pin,
        )
    except FileNotFoundError as error:
        raise WrkError("wrk is not installed; benchmarks/packages.txt lists what is needed.") from error
    return parse(ended.stdout + ended.stderr, cpu_seconds=_children_cpu() - cpu)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
