"""The guard in front of a Flask application: the same decisions, in any number of threads."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from flask import Flask, Response, request

import corral
import corral.wsgi
from corral.guard.pipeline import Pipeline
from corral.policy.model import Bounds, Concurrency, Generation, Jwt, LimitRule, Log, Policy, Quota
from running_app import Records, post, serve_wsgi, wait_for
from running_guard import api_key, read_all

OPEN = Policy(auth="none", log=Log(path=""))
NOBODY_WAITS = replace(OPEN, concurrency=Concurrency(max_running=1, max_waiting=0))
BODY = {"prompt": "hi"}


class Service:
    """A Flask application: `/completion` streams until a test lets it go on, `/v1/completions` echoes."""

    def __init__(self, policy: Policy = OPEN, **arguments) -> None:
        self.go, self.ended = threading.Event(), threading.Event()
        self.records = Records()
        self.app = app = Flask("service")
        self.guard = corral.wsgi.Guard(app.wsgi_app, policy, records=self.records, **arguments)
        app.wsgi_app = self.guard

        @app.post("/completion")
        def stream():
            return Response(self.events(), mimetype="text/event-stream")

        @app.post("/v1/completions")
        @app.post("/upload")
        def echo():
            body = request.get_data()
            return {"body": body.decode(), "query": request.query_string.decode(),
                    "usage": {"prompt_tokens": 3, "completion_tokens": 5}}  # fmt: skip

        @app.post("/infill")
        def broken():
            raise RuntimeError("broken")

        @app.get("/hello")
        @corral.limit("5/hour", name="hello")
        def hello():
            return {"hello": "world"}

        @app.get("/plain")
        def plain():
            return {"plain": True}

    def events(self):
        try:
            yield b"data: {}\n\n"
            while not self.go.wait(0.005):
                yield b": still here\n\n"
            yield b'data: {"stop":true,"tokens_evaluated":7,"tokens_predicted":9}\n\n'
        finally:
            self.ended.set()


def test_the_app_gets_the_body_as_the_guard_understood_it():
    service = Service(replace(OPEN, generation=Generation(max_tokens=64)))
    with serve_wsgi(service.app) as client:
        whole = client.post({"prompt": "hi", "max_tokens": -1}, "/v1/completions?max_tokens=10000")
        chunked = client.post_chunked([b'{"prompt":', b' "hi"}'], "/v1/completions")
        bad = client.post(b"{", "/v1/completions")
    assert json.loads(whole.json["body"]) == json.loads(chunked.json["body"]) == {"prompt": "hi", "max_tokens": 64}
    assert whole.json["query"] == ""
    assert whole.header("X-Corral-Max-Tokens") == "64"
    assert bad.status == 400
    assert (service.records[0].prompt_tokens, service.records[0].completion_tokens) == (3, 5)


@pytest.mark.parametrize("path", ["/v1/completions", "/upload"])
def test_a_body_is_bounded_chunked_or_not(path):
    service = Service(replace(OPEN, bounds=Bounds(max_body=1000)))
    with serve_wsgi(service.app) as client:
        whole = client.post({"prompt": "x" * 1000}, path)
        chunked = client.post_chunked([b'{"prompt": "', *[b"x" * 100] * 10, b'"}'], path)
        small = client.post_chunked([b'{"prompt": "', b"x" * 900, b'"}'], path)
    assert [whole.status, chunked.status, small.status] == [413, 413, 200]


def test_a_limit_is_exact_under_concurrency():
    service = Service(replace(OPEN, limits=(LimitRule(name="few", quota=Quota(20, 3600.0), burst=7),)))
    with serve_wsgi(service.app) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: client.get("/plain"), range(60)))
    statuses = [answer.status for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (7, 53)
    for answer in answers:
        assert answer.header("RateLimit-Policy") == '"few";q=20;w=3600'
        assert (answer.header("Retry-After") is None) == (answer.status == 200)


def test_bodies_are_judged_by_one_thread_at_a_time(monkeypatch):
    """What they hold of a quota is looked up and taken in two steps."""
    inside, most = [], []
    prepare = Pipeline.prepare

    def watched(*arguments):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        try:
            return prepare(*arguments)
        finally:
            inside.pop()

    monkeypatch.setattr(Pipeline, "prepare", watched)
    service = Service()
    with serve_wsgi(service.app) as client, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post({"prompt": "hi"}, "/v1/completions"), range(8)))
    assert {answer.status for answer in answers} == {200}
    assert max(most) == 1


def test_a_decorated_view_is_limited_exactly():
    service = Service()
    with serve_wsgi(service.app) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.get("/hello"), range(20)))
        head = client.get("/hello", method="HEAD")
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) == 15
    assert all(answer.header("Retry-After") and answer.header("X-RateLimit-Limit") == "5" for answer in refused)
    assert (head.status, head.rest) == (429, b"")


def test_a_view_registered_before_its_limit_serves_nothing():
    app = Flask("service")
    app.wsgi_app = corral.wsgi.Guard(app.wsgi_app, OPEN, records=Records())

    @corral.limit("5/hour")
    @app.get("/hello")
    def hello():
        return {}

    with pytest.raises(corral.CorralError, match="before it was limited"):
        app.test_client().get("/hello")


def test_keys_are_asked_for_and_unknown_paths_handled():
    keyed = Policy(auth="keys", keys=(api_key("alice", "a-secret"),))
    with serve_wsgi(Service(keyed).app) as client:
        assert client.get("/plain").status == 401
        assert client.get("/plain", "Authorization: Bearer a-secret\r\n").status == 200
    with serve_wsgi(Service(keyed, unknown="pass").app) as client:
        assert client.get("/plain").status == 200
        assert client.post(BODY, "/v1/completions").status == 401
    with serve_wsgi(Service(OPEN, unknown="deny").app) as client:
        assert client.get("/plain").status == 404


def test_a_stream_flows_and_a_client_that_leaves_frees_its_place():
    service = Service(NOBODY_WAITS)
    with serve_wsgi(service.app) as client:
        connection = client.connect()
        connection.sendall(post(BODY, path="/completion"))
        while b"data: {}" not in connection.recv(65536):
            pass
        assert service.guard.running == 1
        assert client.post(BODY).status == 503
        connection.close()
        assert service.ended.wait(20)
        wait_for(lambda: service.guard.running == 0)
        service.go.set()
        assert client.post(BODY).status == 200
    assert [r.ending for r in service.records] == ["refused", "client-left", "answered"]
    assert service.records[2].completion_tokens == 9


def test_an_exception_in_the_app_frees_the_place():
    service = Service(NOBODY_WAITS)
    with serve_wsgi(service.app) as client:
        body = {"input_prefix": "a", "input_suffix": "b"}
        assert [client.post(body, "/infill").status for _ in range(3)] == [500] * 3
    assert service.guard.running == 0


def environ() -> dict:
    return Flask("none").test_request_context("/completion", method="POST", data=b'{"prompt": "hi"}').request.environ


def test_an_application_that_raises_frees_the_place():
    def broken(environ, start_response):
        raise RuntimeError("broken")

    guard = corral.wsgi.Guard(broken, NOBODY_WAITS, records=Records())
    for _ in range(3):
        with pytest.raises(RuntimeError, match="broken"):
            guard(environ(), lambda *_: None)
    assert guard.running == 0


def test_whatever_becomes_of_a_request_it_runs_no_more():
    rule = LimitRule(name="at-once", quota=Quota(1, 0.0, "concurrent requests"))
    service = Service(replace(OPEN, limits=(rule,)))
    with serve_wsgi(service.app) as client, client.connect() as running:
        running.sendall(post(BODY, path="/completion", headers="Connection: close\r\n"))
        wait_for(lambda: service.guard.running == 1)
        assert client.post(BODY).status == 429
        service.go.set()
        read_all(running)
        wait_for(lambda: service.guard._door._store.held == 0)
        assert [client.post({"input_prefix": "a", "input_suffix": "b"}, "/infill").status for _ in range(3)] == [
            500
        ] * 3
        assert client.post(BODY, "/v1/completions").header("RateLimit") == '"at-once";r=0'
        wait_for(lambda: service.guard._door._store.held == 0)


def test_who_waits_is_served_in_turn_and_who_waits_too_long_refused():
    service = Service(replace(OPEN, concurrency=Concurrency(max_running=1, max_waiting=8, max_wait=20)))
    with serve_wsgi(service.app) as client, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(client.post, BODY) for _ in range(4)]
        wait_for(lambda: (service.guard.running, service.guard.waiting) == (1, 3))
        service.go.set()
        assert [answer.result(20).status for answer in answers] == [200] * 4
    impatient = Service(replace(OPEN, concurrency=Concurrency(max_running=1, max_waiting=8, max_wait=0.05),
                                limits=(LimitRule(name="few", quota=Quota(2, 3600.0)),)))  # fmt: skip
    with serve_wsgi(impatient.app) as client, client.connect() as running:
        running.sendall(post(BODY, path="/completion", headers="Connection: close\r\n"))
        wait_for(lambda: impatient.guard.running == 1)
        refused = [client.post(BODY) for _ in range(3)]
        assert [answer.status for answer in refused] == [503] * 3
        assert all(b"No place came free within 0.05 seconds." in answer.body for answer in refused)
        impatient.go.set()
        read_all(running)
        wait_for(lambda: impatient.guard.running == 0)
        assert client.post(BODY).status == 200


def test_an_answer_that_nobody_reads_is_closed():
    closed = []

    class Answer:
        def __iter__(self):
            return iter([b"x"])

        def close(self):
            closed.append(True)

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Answer()

    guard = corral.wsgi.Guard(app, NOBODY_WAITS, records=Records())
    answer = guard(environ(), lambda *_: None)
    assert guard.running == 1
    answer.close()
    answer.close()
    assert (guard.running, closed) == (0, [True, True])


def test_what_needs_a_loop_is_an_error_at_construction():
    jwt = Jwt(jwks_url="https://issuer.example/keys", issuer="https://issuer.example", audience="llama")
    with pytest.raises(corral.CorralError, match="event loop"):
        corral.wsgi.Guard(Flask("none").wsgi_app, Policy(auth="keys", jwt=jwt))
