"""The guard in front of a FastAPI application: the same decisions as the gateway's, seen from a socket."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.applications import Starlette
from starlette.routing import Route

import corral
from corral.guard.metrics import Metrics
from corral.policy.model import (
    ApiKey,
    Bounds,
    Concurrency,
    Generation,
    LimitRule,
    Log,
    Policy,
    Quota,
)
from running_app import Records, serve_asgi
from running_guard import api_key

OPEN = Policy(auth="none", log=Log(path=""))
QUOTA_HEADERS = ("RateLimit-Policy", "RateLimit", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset",
                 "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")  # fmt: skip


def limited(amount: int, *, burst: int | None = None, per="client") -> Policy:
    return replace(OPEN, limits=(LimitRule(name="few", quota=Quota(amount, 3600.0), per=per, burst=burst),))


def echo(**arguments) -> FastAPI:
    """An application that answers with what it was sent."""
    app = FastAPI()
    app.add_middleware(corral.Guard, **arguments)

    @app.post("/completion")
    @app.post("/v1/chat/completions")
    @app.post("/generate")
    @app.post("/upload")
    async def answer(request: Request):
        body = await request.body()
        return JSONResponse({
            "length": len(body),
            "body": body.decode(),
            "query": request.url.query,
            "type": request.headers.get("content-type"),
            "content_length": request.headers.get("content-length"),
            "encoding": request.headers.get("transfer-encoding"),
            "usage": {"prompt_tokens": 3, "completion_tokens": 5},
            "tokens_evaluated": 3,
            "tokens_predicted": 5,
        })  # fmt: skip

    @app.get("/hello")
    def hello():
        return {"hello": "world"}

    return app


def test_the_app_gets_the_body_as_the_guard_understood_it():
    with serve_asgi(echo(policy=replace(OPEN, generation=Generation(max_tokens=64)))) as client:
        answer = client.post(b'{ "prompt" : "hi", "n_predict": -1 }', "/completion?n_predict=9999999")
    assert answer.status == 200
    assert json.loads(answer.json["body"]) == {"prompt": "hi", "n_predict": 64}
    assert answer.json["query"] == ""
    assert answer.json["content_length"] == str(answer.json["length"])
    assert answer.header("X-Corral-Max-Tokens") == "64"
    assert answer.header("X-Request-Id")


@pytest.mark.parametrize(("sent", "seen"), [
    ({"max_tokens": 10**9}, {"max_tokens": 64, "n_predict": 64}),
    ({"max_tokens": 5}, {"max_tokens": 5, "n_predict": 5}),
    ({"n_predict": 10**9, "max_completion_tokens": 7}, {"n_predict": 64, "max_completion_tokens": 64}),
    ({}, {"n_predict": 64}),
])  # fmt: skip
def test_maxima_are_clamped_under_the_name_that_the_client_used(sent, seen):
    with serve_asgi(echo(policy=replace(OPEN, generation=Generation(max_tokens=64)))) as client:
        answer = client.post({"prompt": "hi", **sent})
    assert json.loads(answer.json["body"]) == {"prompt": "hi", **seen}


def test_an_escaped_name_is_clamped_too():
    with serve_asgi(echo(policy=replace(OPEN, generation=Generation(max_tokens=64)))) as client:
        answer = client.post(rb'{"prompt": "hi", "max\u005ftokens": 1000000}')
    assert json.loads(answer.json["body"])["max_tokens"] == 64


def test_a_body_is_read_as_json_only_whatever_it_was_sent_as():
    with serve_asgi(echo(policy=OPEN)) as client:
        answer = client.post_chunked([b'{"prompt":', b' "hi"}'])
        form = client.send(
            b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            b'Content-Length: 15\r\nConnection: close\r\n\r\n{"prompt":"hi"}'
        )
    assert answer.json["encoding"] is None
    assert answer.json["content_length"] == str(answer.json["length"])
    assert form.json["type"] == "application/json"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"prompt": NaN}', b'{"prompt": ""}', b'{"prompt": "' + b"x" * 40_000 + b'"}'])  # fmt: skip
def test_what_is_no_request_never_reaches_the_app(body):
    with serve_asgi(echo(policy=OPEN)) as client:
        answer = client.post(body)
    assert answer.status == 400
    assert answer.json["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/completion", "/upload"])
def test_a_body_is_bounded_chunked_or_not(path):
    policy = replace(OPEN, bounds=Bounds(max_body=1000))
    with serve_asgi(echo(policy=policy)) as client:
        whole = client.post({"prompt": "x" * 1000}, path)
        chunked = client.post_chunked([b'{"prompt": "', *[b"x" * 100] * 10, b'"}'], path)
        endless = client.post_chunked([b"x" * 1000] * 2000, path)
        small = client.post_chunked([b'{"prompt": "', b"x" * 900, b'"}'], path)
    assert [whole.status, chunked.status, endless.status, small.status] == [413, 413, 413, 200]


def test_a_body_that_crawls_is_refused():
    with serve_asgi(echo(policy=replace(OPEN, bounds=Bounds(body_timeout=0.2)))) as client:
        head = b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"
        assert client.send(head).status == 408


@pytest.mark.parametrize("burst", [1, 3, 20])
def test_a_limit_is_exact_under_concurrency(burst):
    with serve_asgi(echo(policy=limited(20, burst=burst))) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: client.post({"prompt": "hi"}), range(60)))
    statuses = [answer.status for answer in answers]
    assert statuses.count(200) == burst
    assert statuses.count(429) == 60 - burst


def test_answers_and_refusals_carry_every_header():
    with serve_asgi(echo(policy=limited(1))) as client:
        good, refused = client.post({"prompt": "hi"}), client.post({"prompt": "hi"})
    for answer in (good, refused):
        assert [name for name in QUOTA_HEADERS if answer.header(name) is None] == []
    assert good.header("X-RateLimit-Remaining") == "0"
    assert refused.header("RateLimit-Policy") == '"few";q=1;w=3600'
    assert int(refused.header("Retry-After")) == 3600
    assert 'limit "few"' in refused.json["error"]["message"]


def test_an_error_speaks_the_routes_dialect():
    with serve_asgi(echo(policy=OPEN)) as client:
        own, openai = client.post(b"{"), client.post(b"{", "/v1/chat/completions")
    assert own.json["error"]["code"] == 400
    assert openai.json["error"]["code"] == "invalid_request"


def test_keys_are_asked_for_on_every_path():
    keyed = Policy(auth="keys", keys=(api_key("alice", "a-secret"),), log=Log(path=""))
    with serve_asgi(echo(policy=keyed)) as client:
        for path in ("/hello", "/nowhere", "/docs"):
            assert client.get(path).status == 401
        assert client.post({"prompt": "hi"}).status == 401
        good = "Authorization: Bearer a-secret\r\n"
        assert client.get("/hello", good).json == {"hello": "world"}
        assert client.post({"prompt": "hi"}, headers=good).status == 200
        assert client.get("/hello?api_key=a-secret").status == 400


def test_unknown_paths_are_counted_passed_or_denied():
    with serve_asgi(echo(policy=limited(1))) as client:
        assert client.get("/hello").header("X-RateLimit-Remaining") == "0"
        assert client.get("/nowhere").status == 429
    with serve_asgi(echo(policy=limited(1), unknown="pass")) as client:
        assert [client.get("/hello").status for _ in range(3)] == [200] * 3
        assert [client.post({"prompt": "hi"}).status for _ in range(2)] == [200, 429]
    with serve_asgi(echo(policy=OPEN, unknown="deny")) as client:
        assert client.get("/hello").status == 404
        assert client.post({"prompt": "hi"}).status == 200


def test_an_encoded_path_is_judged_as_the_app_routes_it():
    with serve_asgi(echo(policy=OPEN)) as client:
        assert client.post({"prompt": ""}, "/%63ompletion").status == 400


def test_a_root_path_is_no_way_around():
    app = FastAPI()
    app.add_middleware(corral.Guard, policy=OPEN)

    @app.post("/completion")
    async def answer(request: Request):
        return await request.json()

    with serve_asgi(app, root_path="/api") as client:  # uvicorn puts it before every path
        assert client.post({"prompt": ""}).status == 400
        assert client.post({"prompt": "hi"}).json["n_predict"] == 2048


def test_paths_of_the_apps_own_can_be_named():
    with serve_asgi(echo(policy=OPEN, routes={"/generate": "completion"})) as client:
        assert client.post({"prompt": ""}, "/generate").status == 400
        assert json.loads(client.post({"prompt": "hi"}, "/generate").json["body"])["n_predict"] == 2048


def test_head_is_answered_without_a_body():
    with serve_asgi(echo(policy=limited(1))) as client:
        good, refused = client.get("/nowhere", method="HEAD"), client.get("/nowhere", method="HEAD")
    assert (good.status, refused.status) == (404, 429)
    assert good.rest == refused.rest == b""
    assert refused.header("Retry-After")


def test_a_client_cannot_choose_its_address():
    with serve_asgi(echo(policy=limited(1))) as client:
        answers = [client.get("/hello", f"X-Forwarded-For: 192.0.2.{n}\r\n") for n in range(3)]
    assert [answer.status for answer in answers] == [200, 429, 429]


def test_a_trusted_proxy_names_the_client():
    policy = replace(limited(1), identity=replace(OPEN.identity, trusted_proxies=("127.0.0.0/8",)))
    with serve_asgi(echo(policy=policy)) as client:
        answers = [client.get("/hello", f"X-Forwarded-For: 192.0.2.{n}\r\n") for n in (1, 2, 1)]
    assert [answer.status for answer in answers] == [200, 200, 429]


def test_without_a_word_about_keys_only_this_machine_is_heard():
    with serve_asgi(echo(policy=Policy(log=Log(path="")))) as client:
        assert client.get("/hello").status == 200
        elsewhere = b"GET /hello HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        assert client.send(elsewhere).status == 403


def test_records_hold_what_happened_and_the_usage():
    records, metrics = Records(), Metrics()
    with serve_asgi(echo(policy=limited(2), records=records, metrics=metrics)) as client:
        client.post({"prompt": "hi"})
        client.get("/hello")
        client.post({"prompt": "hi"})
    assert [(r.route, r.status, r.ending, r.limit) for r in records] == [
        ("completion", 200, "answered", ""),
        ("app", 200, "answered", ""),
        ("completion", 429, "refused", "few"),
    ]
    assert (records[0].prompt_tokens, records[0].completion_tokens) == (3, 5)
    assert b'corral_refusals_total{limit="few",plan="none",reason="quota_exceeded"} 1.0' in metrics.exposition()


def test_an_exception_in_the_app_frees_the_place():
    records = Records()
    policy = replace(OPEN, concurrency=Concurrency(max_running=1, max_waiting=0))

    async def broken(request):
        raise RuntimeError("broken")

    # Inside of Starlette's own handling of errors, the guard sees the exception; around it, the answer of 500.
    inside = Starlette(routes=[Route("/completion", broken, methods=["POST"])])
    inside.add_middleware(corral.Guard, policy=policy, records=records)
    around = corral.Guard(Starlette(routes=inside.routes), policy, records=records)
    for app in (inside, around):
        with serve_asgi(app) as client:
            assert [client.post({"prompt": "hi"}).status for _ in range(3)] == [500] * 3
    assert [(r.status, r.ending) for r in records] == [(500, "upstream-failed")] * 3 + [(500, "answered")] * 3


def test_a_wrong_policy_is_an_error_at_construction(tmp_path):
    written = tmp_path / "corral.toml"
    written.write_text("[concurrency]\nmax_runing = 4\n")
    with pytest.raises(corral.CorralError, match="max_running"):
        corral.Guard(FastAPI(), policy=written)
    with pytest.raises(corral.CorralError, match="does not exist"):
        corral.Guard(FastAPI(), policy=str(tmp_path / "none.toml"))
    with pytest.raises(corral.CorralError, match="none is configured"):
        corral.Guard(FastAPI(), policy=Policy(auth="keys"))
    with pytest.raises(corral.CorralError, match="letters"):
        corral.Guard(FastAPI(), policy=Policy(keys=(ApiKey(name="a b", sha256="00" * 32),)))
    with pytest.raises(corral.CorralError, match="unknown="):
        corral.Guard(FastAPI(), unknown="maybe")
    with pytest.raises(corral.CorralError, match="no route of llamacpp"):
        corral.Guard(FastAPI(), routes={"/generate": "generation"})


def test_a_policy_file_is_used(tmp_path):
    written = tmp_path / "corral.toml"
    written.write_text('auth = "none"\n[log]\npath = ""\n[[limits]]\nname = "one"\nquota = "1/hour"\n')
    with serve_asgi(echo(policy=str(written))) as client:
        assert [client.get("/hello").status for _ in range(2)] == [200, 429]


def test_importing_corral_loads_nothing():
    code = "import sys, corral; print(sorted({'anyio','orjson','httptools','asyncio'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_tokens_are_held_while_a_request_runs_and_charged_as_it_used_them():
    rule = LimitRule(name="tokens", quota=Quota(100, 3600.0, "tokens"))
    policy = replace(OPEN, limits=(rule,), generation=replace(Generation(), max_tokens=60))
    with serve_asgi(echo(policy=policy, records=Records())) as client:
        body = {"messages": [{"role": "user", "content": "hi"}]}
        seen = [client.post(body, "/v1/chat/completions").status for _ in range(8)]
    assert seen[:4] == [200] * 4  # eight of each are used; were the reserved ones kept, the second had no room
    assert seen[-1] == 429
