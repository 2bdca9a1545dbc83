"""What a contestant is: a server that can be set up for a case, in front of an upstream."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.cases import Case
from benchmarks.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Setup:
    """How one contestant is started: its command, and the files that it reads, by name within `folder`."""

    command: tuple[str, ...]
    files: dict[str, str]


class Contestant(Protocol):
    """A server under test. Stateless: every case gets a process of its own."""

    name: str
    conditions: str
    """What was done to make the comparison fair, in one sentence for the report."""

    @property
    def missing(self) -> str:
        """Name what is not installed and may be absent; a contestant that misses something does not take part."""
        ...

    def plays(self, case: Case) -> bool:
        """Tell whether it takes part in `case`."""
        ...

    def set_up(self, case: Case, port: int, upstream: Upstream, folder: Path) -> Setup:
        """Say how to start it on `port` of 127.0.0.1 with everything it writes within `folder`."""
        ...
