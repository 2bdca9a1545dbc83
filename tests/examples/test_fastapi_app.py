"""The example does what its README says, in front of the real llama-server."""

import importlib.util
import json
from pathlib import Path

import pytest

from running_app import serve_asgi, wait_for
from running_guard import post

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_app.py"
KEY = "Authorization: Bearer choose-a-key\r\n"
pytestmark = pytest.mark.e2e


@pytest.fixture
def example(monkeypatch, llama_server):
    monkeypatch.setenv("CORRAL_API_KEY", "choose-a-key")
    monkeypatch.setenv("CORRAL_LOG_PATH", "")
    monkeypatch.setenv("LLAMA_URL", llama_server.url)
    return load()


def load():
    spec = importlib.util.spec_from_file_location("fastapi_app", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_does_not_start_without_a_key(monkeypatch):
    monkeypatch.delenv("CORRAL_API_KEY", raising=False)
    with pytest.raises(Exception, match="none is configured"):
        load()


def test_it_generates_within_the_policy(example):
    with serve_asgi(example.app) as client:
        assert client.post({"prompt": "Once"}).status == 401
        whole = client.post({"prompt": "Once", "n_predict": 4}, headers=KEY)
        stream = client.post({"prompt": "Once", "n_predict": 4, "stream": True}, headers=KEY)
        refused = [
            client.post(body, headers=KEY).status
            for body in ({"prompt": " "}, {"prompt": "x" * 8001}, {"prompt": "hi", "temperature": float("1e9")}, b"[")
        ]
        chunked = client.send(
            b"POST /completion HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
            + KEY.encode() + b"\r\n" + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 17 + b"0\r\n\r\n"
        )  # fmt: skip
    assert whole.json["tokens_predicted"] <= 4
    assert whole.header("X-RateLimit-Limit") == "30"
    events = [json.loads(line[6:]) for line in stream.body.decode().splitlines() if line.startswith("data: ")]
    assert events[-1]["stop"] is True
    assert refused == [400] * 4
    assert chunked.status == 413


def test_the_thirty_first_request_of_a_minute_is_refused(example):
    with serve_asgi(example.app) as client:
        answers = [client.post({"prompt": "hi", "n_predict": 1}, headers=KEY) for _ in range(32)]
    assert [answer.status for answer in answers] == [200] * 30 + [429] * 2
    assert 0 < int(answers[-1].header("Retry-After")) <= 60


def test_a_stream_whose_client_leaves_frees_its_place(example):
    with serve_asgi(example.app) as client:
        body = {"prompt": "Once upon a time", "n_predict": 2048, "stream": True, "ignore_eos": True}
        connections = [client.connect() for _ in range(5)]
        for connection in connections:
            connection.sendall(post(body, path="/completion", headers=KEY))
        wait_for(lambda: example.app.running > 0)
        for connection in connections:
            connection.close()
        wait_for(lambda: example.app.running == 0)
        assert client.post({"prompt": "hi", "n_predict": 1}, headers=KEY).status == 200


def test_a_report_has_a_limit_of_its_own(example):
    with serve_asgi(example.app) as client:
        assert [client.post({"text": "bad"}, "/report", KEY).status for _ in range(4)] == [200, 200, 200, 429]
