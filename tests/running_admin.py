"""A guard with its admin listener, each in front of what a test scripts."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from corral.guard.admin.access import AdminAccess
from corral.guard.admin.api import AdminApi
from corral.guard.admin.server import AdminServer
from corral.guard.metrics import Metrics
from corral.guard.reload import NOWHERE, Origin, Reloader, Voice
from corral.policy.model import Admin, Policy
from running_guard import GuardFactory, RunningGuard, read_all

KEY = "an admin key that nobody guesses"
OPEN = Admin(listen="127.0.0.1:0", key_sha256=sha256(KEY.encode()).hexdigest())


@dataclass
class Told:
    """An answer of the admin listener."""

    status: int
    head: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """What it says is wrong."""
        assert self.head["content-type"] == "application/problem+json"
        assert self.json["status"] == self.status
        assert self.json["title"]
        return str(self.json["detail"])


@dataclass
class RunningAdmin:
    """An admin listener that runs until its test is over; `running` is its guard."""

    running: RunningGuard
    server: AdminServer
    said: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.address[1]}"

    def ask(self, path: str, method: str = "GET", *, key: str | None = KEY, head: str = "", host: str = "") -> Told:
        """Send one request and read its answer."""
        lines = f"{method} {path} HTTP/1.1\r\nHost: {host or '127.0.0.1'}\r\n{head}"
        if key is not None:
            lines += f"Authorization: Bearer {key}\r\n"
        return self.send(f"{lines}\r\n".encode())

    def send(self, data: bytes) -> Told:
        """Send bytes and read the answer."""
        port, self.running.port = self.running.port, self.server.address[1]
        with self.running.connect() as connection:
            self.running.port = port
            connection.sendall(data)
            head, _, body = read_all(connection).partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        return Told(int(first.split()[1]), {name.lower(): value for name, value in fields.items()}, body)


AdminFactory = Callable[..., RunningAdmin]


@pytest.fixture
def start_admin(start_guard: GuardFactory) -> Iterator[AdminFactory]:
    """Start guards with admin listeners: `start(handler, policy, read=…)`; `read` answers what a reload reads."""
    started: list[RunningAdmin] = []

    def start(
        *handler: Any, policy: Policy | None = None, read: Callable[[Policy], Policy] | None = None
    ) -> RunningAdmin:
        metrics = Metrics()
        running = start_guard(*handler, policy=policy or Policy(auth="none", admin=OPEN), metrics=metrics)
        said: list[str] = []
        origin = NOWHERE if read is None else Origin(read, (Path(__file__),), "the test's policy")

        async def open_admin() -> AdminServer:
            guard = running.guard
            reloader = Reloader(origin, guard.policy, guard.reload, Voice(said.append, said.append))
            access = AdminAccess(guard.policy, on_loopback=True)
            server = AdminServer(metrics, ("127.0.0.1", 0), AdminApi(guard, reloader, metrics, access, said.append))
            await server.start()
            return server

        admin = RunningAdmin(running, running.call(open_admin()), said)
        started.append(admin)
        return admin

    yield start
    for admin in started:
        admin.running.call(admin.server.stop())
