"""The answers that docs/admin.md shows are those of a guard that runs: the same members, of the same types."""

import asyncio
import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corral.guard.admin.api import AdminApi
from corral.policy.model import Concurrency, LimitRule, Policy, Quota
from running_admin import KEY, OPEN, AdminFactory, start_admin
from running_guard import CHAT, Seen, answer, api_key, post, start_guard

__all__ = ["start_admin", "start_guard"]

PAGE = (Path(__file__).parents[3] / "docs" / "admin.md").read_text()
EXAMPLES = re.findall(
    r'^\$ curl (?:-X (POST) )?-H \S+ \S+ \S+ "?http://127.0.0.1:9464(\S+?)"?\n(.+)\n```', PAGE, re.MULTILINE
)
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
HOURLY = LimitRule(name="hourly", quota=Quota(10, 3600.0), algorithm="window")
POLICY = Policy(
    auth="keys", keys=(api_key("alice", "al1ce"), api_key("bob", "b0b")), admin=OPEN, limits=(HOURLY,),
    concurrency=Concurrency(max_running=1),
)  # fmt: skip


def shape(value: Any) -> Any:
    """Say what a value is made of; of a list, its first entry."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return type(value)


@pytest.mark.parametrize(("method", "path", "shown"), EXAMPLES, ids=lambda value: value[:24])
def test_the_answers_shown_are_real(start_admin: AdminFactory, method: str, path: str, shown: str) -> None:
    go_on = threading.Event()

    async def serve(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if b"stay" not in seen.body:
            writer.write(answer(CHAT))
            return
        writer.write(STREAM + b"%x\r\n%b\r\n" % (8 * len(EVENT), 8 * EVENT))
        await writer.drain()
        await asyncio.to_thread(go_on.wait)

    admin = start_admin(
        serve, policy=POLICY, read=lambda before: replace(before, limits=(replace(HOURLY, quota=Quota(9, 3600.0)),))
    )
    connections = []
    try:
        for key in ("al1ce", "b0b", "guess"):
            admin.running.exchange(headers=f"Authorization: Bearer {key}\r\n")
        for key in ("al1ce", "b0b"):
            connection = admin.running.connect()
            connections.append(connection)
            body = {
                "model": "tiny",
                "messages": [{"role": "user", "content": "stay"}],
                "stream": True,
                "max_tokens": 128,
            }
            connection.sendall(post(body, headers=f"Authorization: Bearer {key}\r\n"))
        while not (admin.running.guard.running == 1 and admin.running.guard.waiting == 1):
            pass
        while not admin.ask("/requests").json["requests"][0]["tokens"]:
            pass
        told = admin.ask(path, method or "GET")
        assert told.status == 200, told.body
        assert shape(told.json) == shape(json.loads(shown))
    finally:
        go_on.set()
        for connection in connections:
            connection.close()


def test_every_route_has_a_heading(start_admin: AdminFactory) -> None:
    admin = start_admin()
    api = admin.server.api
    assert isinstance(api, AdminApi)
    routes = {f"{method} {path}" for path, (method, _) in api._routes.items()}
    headings = " ".join(re.findall(r"^### (.+)$", PAGE, re.MULTILINE))
    assert set(re.findall(r"`(\S+ \S+)`", headings)) == routes
    assert KEY not in PAGE
