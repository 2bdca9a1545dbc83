"""What the admin API shows of requests under way, and how it ends or refuses them."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from corral.policy.model import Concurrency, LimitRule, Policy, Quota
from running_admin import OPEN, AdminFactory, RunningAdmin, start_admin
from running_guard import CHAT, Seen, answer, api_key, post, read_all, start_guard

__all__ = ["start_admin", "start_guard"]

KEYS = (api_key("alice", "al1ce"), api_key("bob", "b0b"))
HOURLY = LimitRule(name="hourly", quota=Quota(10, 3600.0), algorithm="window")
TOKENS = LimitRule(name="tokens", quota=Quota(100_000, 3600.0, "tokens"), algorithm="window")
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Stage:
    """A guard with one place, whose server begins streams and ends them when it is told to."""

    def __init__(self, start: AdminFactory, *, limits: tuple[LimitRule, ...] = ()) -> None:
        self.go_on = threading.Event()
        self.begun = threading.Semaphore(0)
        self.connections: list[socket.socket] = []
        policy = Policy(auth="keys", keys=KEYS, admin=OPEN, limits=limits, concurrency=Concurrency(max_running=1))
        self.admin: RunningAdmin = start(self.serve, policy=policy)

    async def serve(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        if b"quick" in seen.body or not seen.body:
            writer.write(answer(CHAT))
            return
        if b"silent" not in seen.body:
            data = EVENT * 4  # the first stands for the role
            writer.write(STREAM + b"%x\r\n%b\r\n" % (len(data), data))
            await writer.drain()
        self.begun.release()
        await asyncio.to_thread(self.go_on.wait, 30)
        writer.write(b"0\r\n\r\n")

    def ask(self, key: str, say: str = "stay") -> socket.socket:
        """Send a request, and keep its connection."""
        connection = self.admin.running.connect()
        self.connections.append(connection)
        body = {"messages": [{"role": "user", "content": say}], "stream": True, "max_tokens": 128}
        connection.sendall(post(body, headers=f"Authorization: Bearer {key}\r\nConnection: close\r\n"))
        return connection

    def until(self, path: str, **members: Any) -> Any:
        """Ask until the answer has these members."""
        for _ in range(3000):
            told = self.admin.ask(path).json
            if all(told[name] == value for name, value in members.items()):
                return told
        raise AssertionError(told)

    def close(self) -> None:
        self.go_on.set()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def stages(start_admin: AdminFactory) -> Iterator[Any]:
    made: list[Stage] = []

    def make(**limits: Any) -> Stage:
        made.append(Stage(start_admin, **limits))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


def test_what_runs_and_waits_is_listed_oldest_first(stages: Any) -> None:
    stage = stages()
    streaming = stage.ask("al1ce")
    stage.begun.acquire(timeout=10)
    assert b"data:" in streaming.recv(65536)
    stage.ask("b0b")
    told = stage.until("/requests", count=2)
    running, waiting = told["requests"]
    assert running["id"] != waiting["id"]
    assert {name: running[name] for name in ("client", "address", "route", "state", "stream", "tokens", "max_tokens")} == {
        "client": "alice", "address": "127.0.0.1", "route": "chat", "state": "running", "stream": True, "tokens": 3,
        "max_tokens": 128,
    }  # fmt: skip
    assert running["bytes"] == 4 * len(EVENT)
    assert (waiting["client"], waiting["state"], waiting["tokens"], waiting["upstream"]) == (
        "bob",
        "waiting",
        None,
        None,
    )
    assert running["upstream"] is not None
    assert [entry["client"] for entry in stage.admin.ask("/requests?name=bob").json["requests"]] == ["bob"]
    assert len(stage.admin.ask("/requests?most=1").json["requests"]) == 1


def test_the_queue_is_told_by_client(stages: Any) -> None:
    stage = stages()
    stage.ask("al1ce")
    stage.begun.acquire(timeout=10)
    for key in ("b0b", "b0b", "al1ce"):
        stage.ask(key)
    told = stage.until("/queue", waiting=3)
    assert {entry["client"]: entry["waiting"] for entry in told["clients"]} == {"bob": 2, "alice": 1}
    assert sum(entry["bytes"] for entry in told["clients"]) == told["bytes"]


def test_a_stream_that_is_cancelled_says_so_and_frees_its_place(stages: Any) -> None:
    stage = stages(limits=(TOKENS,))
    cancelled, next_one = stage.ask("al1ce"), None
    stage.begun.acquire(timeout=10)
    next_one = stage.ask("b0b", "quick")
    (running, _) = stage.until("/requests", count=2)["requests"]
    for _ in range(3000):
        if stage.admin.ask("/requests").json["requests"][0]["tokens"]:
            break
    told = stage.admin.ask(f"/requests/{running['id']}/cancel", "POST")
    assert told.json == {"cancelled": running["id"], "state": "running"}
    text = read_all(cancelled)
    assert text.endswith(b"0\r\n\r\n"), "the framing is complete"
    assert b'"cancelled"' in text
    assert read_all(next_one).startswith(b"HTTP/1.1 200")
    first = stage.admin.running.settled(2)[0]
    assert (first.ending, first.status, first.completion_tokens) == ("cancelled", 200, 3)
    assert any(running["id"] in sentence for sentence in stage.admin.said)
    assert stage.admin.ask(f"/requests/{running['id']}/cancel", "POST").status == 404


@pytest.mark.parametrize("say", ["silent", "wait"])
def test_a_request_without_an_answer_yet_is_refused_when_it_is_cancelled(stages: Any, say: str) -> None:
    stage = stages(limits=(HOURLY,))
    connection = stage.ask("al1ce", "silent")
    stage.begun.acquire(timeout=10)
    if say == "wait":
        connection = stage.ask("b0b")
        stage.until("/queue", waiting=1)
    found = stage.admin.ask("/requests").json["requests"][-1]
    assert stage.admin.ask(f"/requests/{found['id']}/cancel", "POST").status == 200
    head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403")
    assert json.loads(body)["error"]["code"] == "cancelled"
    told = stage.admin.ask("/clients?name=bob").json["clients"]
    assert told == [], "who only waited has it back"


def test_an_unknown_request_cannot_be_cancelled(stages: Any) -> None:
    admin = stages().admin
    for name in ("nobody", "%00", "x" * 200):
        told = admin.ask(f"/requests/{name}/cancel", "POST")
        assert told.status == 404
        assert "it may have ended" in told.problem
    assert admin.ask("/requests/nobody/cancel").status == 405


def test_a_drained_guard_finishes_what_runs_and_refuses_what_is_new(stages: Any) -> None:
    stage = stages(limits=(HOURLY,))
    running = stage.ask("al1ce")
    stage.begun.acquire(timeout=10)
    waiting = stage.ask("b0b", "quick")
    stage.until("/queue", waiting=1)
    assert stage.admin.ask("/drain", "POST").json == {"draining": True, "running": 1, "waiting": 1}
    assert stage.admin.ask("/status").json["draining"] is True
    assert b"corral_draining 1.0" in stage.admin.ask("/metrics").body
    head, _, body = read_all(stage.ask("b0b", "quick")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert b"Retry-After: 10" in head
    assert json.loads(body)["error"]["code"] == "draining"
    health = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    assert stage.admin.running.send(health).startswith(b"HTTP/1.1 503")
    stage.go_on.set()
    assert read_all(running).endswith(b"0\r\n\r\n")
    assert read_all(waiting).startswith(b"HTTP/1.1 200")
    assert stage.admin.ask("/clients?name=bob").json["clients"][0]["remaining"] == 9, "a refused request takes nothing"
    assert stage.admin.ask("/undrain", "POST").json["draining"] is False
    assert read_all(stage.ask("b0b", "quick")).startswith(b"HTTP/1.1 200")
    assert stage.admin.running.send(health).startswith(b"HTTP/1.1 200")
    assert len(stage.admin.said) == 2


def test_the_server_is_shown(stages: Any) -> None:
    stage = stages()
    (server,) = stage.admin.ask("/upstreams").json["upstreams"]
    assert server["up"] is True
    assert str(stage.admin.running.server.port) in server["url"]
