"""Limits on single handlers: exact, in every kind of handler, and never silently off."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import corral
from corral.policy.model import LimitRule, Log, Policy, Quota
from running_app import Records, serve_asgi
from running_guard import api_key

OPEN = Policy(auth="none", log=Log(path=""))
KEYED = Policy(auth="keys", log=Log(path=""), keys=(api_key("alice", "first"), api_key("bob", "second")))


def guarded(policy: Policy = OPEN, **arguments) -> FastAPI:
    app = FastAPI()
    app.add_middleware(corral.Guard, policy=policy, records=Records(), **arguments)
    return app


def add_async(app: FastAPI) -> None:
    @app.get("/it")
    @corral.limit("5/hour")
    async def it():
        return {"answer": 42}


def add_sync(app: FastAPI) -> None:
    @app.get("/it")
    @corral.limit("5/hour")
    def it():
        return {"answer": 42}


def add_dependency(app: FastAPI) -> None:
    @app.get("/it", dependencies=[Depends(corral.Limit("5/hour"))])
    def it():
        return {"answer": 42}


def add_stream(app: FastAPI) -> None:
    @app.get("/it")
    @corral.limit("5/hour")
    async def it():
        return StreamingResponse(iter([b"4", b"2"]))


def add_swallowing(app: FastAPI) -> None:
    @app.exception_handler(corral.CorralError)
    async def swallow(request, error):
        return JSONResponse({"fine": True})

    add_async(app)


def add_behind_other_middleware(app: FastAPI) -> None:
    # The middleware that was added first lies innermost: between the guard and the handler.
    @app.middleware("http")
    async def other(request, call_next):
        return await call_next(request)

    app.user_middleware.reverse()
    add_sync(app)


@pytest.mark.parametrize(
    "add", [add_async, add_sync, add_dependency, add_stream, add_swallowing, add_behind_other_middleware]
)
def test_a_limit_is_exact_in_every_kind_of_handler(add):
    app = guarded()
    add(app)
    with serve_asgi(app) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.get("/it"), range(24)))
    good = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    assert (len(good), len(refused)) == (5, 19)
    assert sorted(int(answer.header("X-RateLimit-Remaining")) for answer in good) == [0, 1, 2, 3, 4]
    for answer in refused:
        assert int(answer.header("Retry-After")) > 0
        assert answer.header("X-RateLimit-Limit") == "5"
        assert ";q=5;w=3600" in answer.header("RateLimit-Policy")
        assert answer.json["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("burst", [1, 4])
def test_a_burst_is_kept(burst):
    app = guarded()

    @app.get("/it")
    @corral.limit("10/hour", burst=burst)
    def it():
        return {}

    with serve_asgi(app) as client:
        assert [client.get("/it").status for _ in range(burst + 2)] == [200] * burst + [429] * 2


def test_each_handler_has_its_own_count_and_a_shared_limit_one():
    app = guarded()
    shared = corral.Limit("1/hour")

    @app.get("/a")
    @corral.limit("1/hour")
    def a():
        return {}

    @app.get("/b")
    @corral.limit("1/hour")
    def b():
        return {}

    @app.get("/c", dependencies=[Depends(shared)])
    @app.get("/d", dependencies=[Depends(shared)])
    def c():
        return {}

    with serve_asgi(app) as client:
        assert [client.get(path).status for path in ("/a", "/b", "/a", "/c", "/d")] == [200, 200, 429, 200, 429]


def test_keys_are_counted_apart_and_everyone_together():
    app = guarded(KEYED)

    @app.get("/key")
    @corral.limit("1/hour", per="key")
    def by_key():
        return {}

    @app.get("/everyone")
    @corral.limit("1/hour", per="everyone")
    def together():
        return {}

    first, second = ("Authorization: Bearer " + key + "\r\n" for key in ("first", "second"))
    with serve_asgi(app) as client:
        assert [client.get("/key", who).status for who in (first, second, first)] == [200, 200, 429]
        assert [client.get("/everyone", who).status for who in (first, second)] == [200, 429]


def test_what_a_limit_refuses_costs_no_other_quota():
    app = guarded(replace(OPEN, limits=(LimitRule(name="all", quota=Quota(3, 3600.0)),)))

    @app.get("/it")
    @corral.limit("10/hour", name="outer")
    @corral.limit("1/hour", name="inner")
    def it():
        return {}

    @app.get("/other")
    def other():
        return {}

    with serve_asgi(app) as client:
        assert [client.get("/it").status for _ in range(6)] == [200] + [429] * 5
        assert [client.get("/other").status for _ in range(3)] == [200, 200, 429]


def test_a_limit_on_an_inference_route_frees_the_place():
    app = FastAPI()
    guard = corral.Guard(app, OPEN, records=Records())

    @app.post("/completion")
    @corral.limit("1/hour")
    async def completion():
        return {}

    with serve_asgi(guard) as client:
        answers = [client.post({"prompt": "hi"}) for _ in range(10)]
    assert [answer.status for answer in answers] == [200] + [429] * 9
    assert answers[1].json["error"]["type"] == "rate_limit_error"
    assert guard.running == 0


def test_it_works_in_starlette_and_on_methods():
    class Endpoint(HTTPEndpoint):
        @corral.limit("1/hour")
        async def get(self, request):
            return PlainTextResponse("hello")

    app = Starlette(routes=[Route("/it", Endpoint)])
    app.add_middleware(corral.Guard, policy=OPEN, records=Records())
    with serve_asgi(app) as client:
        assert [client.get("/it").status for _ in range(2)] == [200, 429]


def test_it_counts_on_paths_that_the_guard_passes():
    app = guarded(unknown="pass")
    add_async(app)
    with serve_asgi(app) as client:
        answers = [client.get("/it") for _ in range(6)]
    assert [answer.status for answer in answers] == [200] * 5 + [429]
    assert answers[0].header("X-RateLimit-Remaining") == "4"
    assert answers[5].header("Retry-After")


def test_without_a_guard_nothing_is_served_and_the_reason_is_told():
    with pytest.raises(corral.CorralError, match=r"add_middleware\(corral.Guard\)"):
        corral.Limit("1/hour").check()
    app = FastAPI()
    add_async(app)
    with serve_asgi(app) as client:
        assert client.get("/it").status == 500


def test_a_key_that_nobody_is_asked_for_cannot_be_counted():
    app = guarded()

    @app.get("/it")
    @corral.limit("1/hour", per="key")
    def it():
        return {}

    with serve_asgi(app) as client:
        assert client.get("/it").status == 500


def test_a_limit_above_the_registration_stops_the_start():
    app = guarded()

    @corral.limit("1/hour")
    @app.get("/it")
    def it():
        return {}

    # Mounted, the application is not started by itself: its first request tells.
    with serve_asgi(Starlette(routes=[Mount("/", app)])) as client:
        assert client.get("/it").status == 500
    for start in (app, corral.Guard(app, OPEN, records=Records())):
        with pytest.raises(AssertionError, match="did not start"), serve_asgi(start):
            pass


@pytest.mark.parametrize(("arguments", "message"), [
    (("often",), "is no quota"), (("0/minute",), "must be from 1"), (("5 tokens/minute",), "tokens cannot be counted"),
])  # fmt: skip
def test_a_wrong_quota_is_an_error_where_it_is_written(arguments, message):
    with pytest.raises(corral.CorralError, match=message):
        corral.limit(*arguments)(lambda: None)
    with pytest.raises(corral.CorralError, match=message):
        corral.Limit(*arguments)


def test_what_cannot_be_limited_is_an_error_where_it_is_written():
    def generator():
        yield 1

    with pytest.raises(corral.CorralError, match="generator"):
        corral.limit("1/hour")(generator)
    with pytest.raises(corral.CorralError, match="methods of a class"):
        corral.limit("1/hour")(threading.Thread)
    with pytest.raises(corral.CorralError, match="per="):
        corral.Limit("1/hour", per="user")
