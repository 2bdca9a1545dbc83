"""Places of a guarded application: streams flow, and every place is freed once, however its request ends."""

import asyncio
import threading
from dataclasses import replace

import pytest
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

import corral
from corral.policy.model import Bounds, Concurrency, LimitRule, Log, Policy, Quota
from running_app import Records, post, serve_asgi, wait_for
from running_guard import read_all

ONE_PLACE = Policy(auth="none", log=Log(path=""), concurrency=Concurrency(max_running=1, max_waiting=4, max_wait=20))
NOBODY_WAITS = replace(ONE_PLACE, concurrency=Concurrency(max_running=1, max_waiting=0))
BODY = {"prompt": "hi"}
USAGE = b'data: {"content":"","stop":true,"tokens_evaluated":7,"tokens_predicted":9}\n\n'


class Model:
    """Stands where the model is: a test lets it go on, and sees what becomes of its work."""

    def __init__(self, policy: Policy, **arguments) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.records = Records()
        app = FastAPI()
        self.app = self.guard = corral.Guard(app, policy, records=self.records, **arguments)

        @app.post("/completion")
        async def stream(request: Request):
            return StreamingResponse(self.events(), media_type="text/event-stream")

        @app.post("/v1/completions")
        async def whole():
            self.begun.set()
            try:
                while not self.go.is_set():
                    await asyncio.sleep(0.005)
            finally:
                self.ended.set()
            return {"choices": []}

        @app.post("/v1/chat/completions")
        def threaded():
            self.begun.set()
            self.go.wait(20)
            self.ended.set()
            return {"choices": []}

        @app.post("/embedding")
        async def flood():
            async def events():
                while True:
                    yield b"x" * 65536

            return StreamingResponse(events())

        @app.post("/infill")
        async def afterwards(tasks: BackgroundTasks):
            tasks.add_task(self.go.wait, 20)
            return {"content": ""}

    async def events(self):
        try:
            yield b"data: {}\n\n"
            self.begun.set()
            while not self.go.is_set():
                await asyncio.sleep(0.005)
            yield USAGE
        finally:
            self.ended.set()


def test_a_stream_flows_while_it_is_made_and_its_usage_is_read():
    model = Model(ONE_PLACE)
    with serve_asgi(model.app) as client, client.connect() as connection:
        connection.sendall(post(BODY, path="/completion", headers="Connection: close\r\n"))
        first = b""
        while b"data: {}" not in first:
            first += connection.recv(65536)
        assert model.guard.running == 1
        model.go.set()
        assert USAGE in read_all(connection)
        wait_for(lambda: model.guard.running == 0)
    assert [(r.ending, r.prompt_tokens, r.completion_tokens) for r in model.records] == [("answered", 7, 9)]


@pytest.mark.parametrize("path", ["/completion", "/v1/completions"])
def test_a_client_that_leaves_frees_its_place_and_ends_the_work(path):
    model = Model(NOBODY_WAITS)
    with serve_asgi(model.app) as client:
        connection = client.connect()
        connection.sendall(post(BODY, path=path))
        assert model.begun.wait(20)
        refused = client.post(BODY)
        assert (refused.status, b"the queue is full" in refused.body) == (503, True)
        connection.close()
        assert model.ended.wait(20)
        wait_for(lambda: model.guard.running == 0)
        model.go.set()
        assert client.post(BODY).status == 200
    assert [record.ending for record in model.records] == ["refused", "client-left", "answered"]


def test_a_thread_keeps_its_place_until_it_has_ended():
    model = Model(NOBODY_WAITS)
    with serve_asgi(model.app) as client:
        connection = client.connect()
        connection.sendall(post({"messages": [{"role": "user", "content": "hi"}]}))
        assert model.begun.wait(20)
        connection.close()
        refused = client.post(BODY)
        assert refused.status == 503
        assert int(refused.header("Retry-After")) >= 1
        assert model.guard.running == 1
        model.go.set()
        wait_for(lambda: model.guard.running == 0)
        assert client.post(BODY).status == 200
    assert model.ended.is_set()


def test_work_after_the_answer_holds_no_place():
    model = Model(NOBODY_WAITS)
    with serve_asgi(model.app) as client:
        answers = [client.post({"input_prefix": "a", "input_suffix": "b"}, "/infill").status for _ in range(3)]
        model.go.set()
    assert answers == [200] * 3


def test_who_waits_is_served_when_a_place_is_free():
    model = Model(ONE_PLACE)
    with serve_asgi(model.app) as client:
        connections = [client.connect() for _ in range(3)]
        for connection in connections:
            connection.sendall(post(BODY, path="/completion", headers="Connection: close\r\n"))
        wait_for(lambda: (model.guard.running, model.guard.waiting) == (1, 2))
        model.go.set()
        answers = [read_all(connection) for connection in connections]
        for connection in connections:
            connection.close()
        wait_for(lambda: model.guard.running == 0)
    assert all(USAGE in answer for answer in answers)
    assert [record.ending for record in model.records] == ["answered"] * 3


def test_who_leaves_the_queue_takes_no_place():
    model = Model(ONE_PLACE)
    with serve_asgi(model.app) as client:
        running, waiting = client.connect(), client.connect()
        running.sendall(post(BODY, path="/completion", headers="Connection: close\r\n"))
        wait_for(lambda: model.guard.running == 1)
        waiting.sendall(post(BODY, path="/completion"))
        wait_for(lambda: model.guard.waiting == 1)
        waiting.close()
        wait_for(lambda: model.guard.waiting == 0)
        model.go.set()
        assert USAGE in read_all(running)
        running.close()
        wait_for(lambda: model.guard.running == 0)
    assert sorted(record.ending for record in model.records) == ["answered", "client-left"]


def test_who_waits_too_long_is_refused_and_gets_the_quota_back():
    policy = replace(ONE_PLACE, concurrency=Concurrency(max_running=1, max_waiting=4, max_wait=0.1),
                     limits=(LimitRule(name="few", quota=Quota(2, 3600.0)),))  # fmt: skip
    model = Model(policy)
    with serve_asgi(model.app) as client, client.connect() as running:
        running.sendall(post(BODY, path="/completion", headers="Connection: close\r\n"))
        wait_for(lambda: model.guard.running == 1)
        refused = [client.post(BODY) for _ in range(3)]
        model.go.set()
        read_all(running)
        wait_for(lambda: model.guard.running == 0)
        assert client.post(BODY).status == 200
    assert [answer.status for answer in refused] == [503] * 3
    assert all(b"No place came free within 0.1 seconds." in answer.body for answer in refused)
    assert all(answer.header("Retry-After") for answer in refused)


def test_an_answer_that_takes_too_long_is_ended():
    model = Model(replace(NOBODY_WAITS, bounds=Bounds(total_timeout=0.3)))
    with serve_asgi(model.app) as client:
        late = client.post(BODY, "/v1/completions")
        cut = client.post(BODY)
        wait_for(lambda: model.guard.running == 0)
    assert late.status == 504
    assert cut.status == 200
    assert not cut.rest.endswith(b"0\r\n\r\n")
    assert [record.ending for record in model.records] == ["timed-out"] * 2


def test_a_client_that_does_not_read_loses_its_place():
    model = Model(replace(NOBODY_WAITS, bounds=Bounds(write_timeout=0.2)))
    with serve_asgi(model.app) as client, client.connect() as connection:
        connection.sendall(post({"content": "hi"}, path="/embedding"))
        wait_for(lambda: len(model.records) == 1)
        assert model.guard.running == 0
    assert [(record.status, record.ending) for record in model.records] == [(200, "client-left")]


def test_a_cancelled_request_frees_its_place():
    async def forever(scope, receive, send):
        await asyncio.Event().wait()

    guard = corral.Guard(forever, NOBODY_WAITS, records=Records())
    sent = []

    async def receive():
        if not sent:
            sent.append(1)
            return {"type": "http.request", "body": b'{"prompt": "hi"}'}
        return await asyncio.Event().wait()

    async def main() -> None:
        scope = {"type": "http", "method": "POST", "path": "/completion", "headers": [(b"host", b"x")], "query_string": b"",
                 "client": ("127.0.0.1", 1)}  # fmt: skip
        task = asyncio.get_running_loop().create_task(guard(scope, receive, None))
        while not guard.running:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert guard.running == 0


def test_a_guard_serves_one_loop():
    async def app(scope, receive, send):
        raise AssertionError("not reached")

    guard = corral.Guard(app, NOBODY_WAITS, records=Records())
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": None}

    async def elsewhere() -> None:
        with pytest.raises(corral.CorralError, match="one event loop"):
            await guard(scope, None, None)

    async def main() -> None:
        guard._start({})
        await asyncio.to_thread(asyncio.run, elsewhere())

    asyncio.run(main())


def socket_scope(path: str, headers=()) -> dict:
    return {"type": "websocket", "path": path, "headers": [(b"host", b"127.0.0.1"), *headers], "query_string": b"",
            "client": ("127.0.0.1", 1)}  # fmt: skip


def shake_hands(guard, times: int, headers=()) -> list:
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append((message["type"], message.get("reason")))

    async def main() -> None:
        for _ in range(times):
            await guard(socket_scope("/socket", headers), receive, send)

    asyncio.run(main())
    return sent


def test_websockets_are_refused_unless_they_are_let_in():
    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})

    once = replace(ONE_PLACE, limits=(LimitRule(name="one", quota=Quota(1, 3600.0)),))
    closed = corral.Guard(app, once, records=Records())
    assert shake_hands(closed, 1) == [("websocket.close", "websockets are not served")]
    open_ = corral.Guard(app, once, websockets=True, records=Records())
    assert shake_hands(open_, 2) == [("websocket.accept", None), ("websocket.close", "quota_exceeded")]


def test_a_page_of_another_site_cannot_shake_hands_where_no_key_is_asked_for():
    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})

    guard = corral.Guard(app, ONE_PLACE, websockets=True, records=Records())
    evil = shake_hands(guard, 1, [(b"origin", b"https://evil.example")])
    assert evil == [("websocket.close", "the page is another site's")]
    assert shake_hands(guard, 1, [(b"origin", b"http://127.0.0.1")]) == [("websocket.accept", None)]


def test_an_unknown_scope_is_an_error():
    with pytest.raises(corral.CorralError, match="does not know the scope"):
        asyncio.run(corral.Guard(FastAPI(), ONE_PLACE)({"type": "telepathy"}, None, None))


def test_counts_outlive_a_loop_as_tests_of_applications_need_it():
    app = FastAPI()
    app.add_middleware(corral.Guard, policy=replace(ONE_PLACE, limits=(LimitRule(name="one", quota=Quota(1, 3600.0)),)))
    client = TestClient(app)
    assert [client.get("/nowhere").status_code for _ in range(2)] == [404, 429]


@pytest.mark.parametrize("path", ["/completion", "/v1/completions"])
def test_a_client_that_leaves_is_not_counted_among_those_that_run_at_once(path):
    rule = LimitRule(name="at-once", quota=Quota(1, 0.0, "concurrent requests"))
    model = Model(replace(ONE_PLACE, concurrency=Concurrency(max_running=4), limits=(rule,)))
    with serve_asgi(model.app) as client:
        connection = client.connect()
        connection.sendall(post(BODY, path=path))
        assert model.begun.wait(20)
        refused = client.post(BODY)
        assert (refused.status, refused.header("RateLimit")) == (429, '"at-once";r=0')
        connection.close()
        assert model.ended.wait(20)
        wait_for(lambda: model.guard._door._store.held == 0)
        model.go.set()
        passed = client.post(BODY)
        assert (passed.status, passed.header("RateLimit")) == (200, '"at-once";r=0')
        wait_for(lambda: model.guard._door._store.held == 0)
