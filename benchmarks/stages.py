"""What each step of a request costs in process: `python -m benchmarks.stages`.

The pieces that the guard puts together for one proxied chat completion, timed one by one on the bytes of the
benchmark's request. The sum is less than a request costs: system calls and the event loop are not in it.
"""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import httptools
import orjson

from benchmarks.cases import CASES, KEY, PATH
from benchmarks.stopwatch import Timing, print_table, timed
from corral.dialects import dialect
from corral.dialects.sanitise import FieldBounds, check_fields, depth_exceeds
from corral.dialects.streams import last_usage
from corral.engine.decision import Standing
from corral.engine.limit import limits_from
from corral.guard.access_log import json_line
from corral.guard.caller import Visit
from corral.guard.logins import Logins
from corral.guard.metrics import Metrics
from corral.guard.pipeline import Pipeline
from corral.guard.quota_headers import QuotaHeaders
from corral.guard.record import Finished
from corral.guard.refusal import Refusal, RefusalWriter
from corral.policy.model import ApiKey, LimitRule, Policy, Quota
from corral.stores.memory import MemoryStore

_BODY = CASES[1].bodies()[0].encode()
_HEAD = {
    b"host": b"127.0.0.1:18080",
    b"content-type": b"application/json",
    b"authorization": b"Bearer " + KEY.encode(),
    b"content-length": b"%d" % len(_BODY),
}
_REQUEST = (
    b"POST %b HTTP/1.1\r\n" % PATH.encode()
    + b"".join(b"%b: %b\r\n" % (name, value) for name, value in _HEAD.items())
    + b"\r\n"
    + _BODY
)
_USAGE = {"prompt_tokens": 58, "completion_tokens": 24, "total_tokens": 82}
_ANSWER = orjson.dumps(
    {
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Fair. " * 18}}],
        "created": 1760000000,
        "id": "chatcmpl-4xk2nSw1vQ0Zr8Yb",
        "model": "tiny",
        "object": "chat.completion",
        "usage": _USAGE,
        "timings": {"prompt_n": 58, "prompt_ms": 41.2, "predicted_n": 24, "predicted_ms": 512.7},
    }
)
_ANSWER_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_ANSWER)
_STREAM_TAIL = b"data: %b\n\ndata: [DONE]\n\n" % orjson.dumps({"choices": [], "usage": _USAGE})
_FINISHED = Finished(
    at=1760000000.0, request_id="0f0f0f0f-1", client="benchmark", address="127.0.0.1", method="POST",
    route="chat", status=200, refused="", limit="", stream=False, waited=0.0, first_byte=0.001, duration=0.002,
    bytes_in=len(_BODY), bytes_out=len(_ANSWER), prompt_tokens=58, completion_tokens=24, compute_ms=553.9,
    ending="answered",
)  # fmt: skip


class _Collector:
    """What llhttp tells, and nobody wants."""

    def on_message_begin(self) -> None: ...

    def on_url(self, target: bytes) -> None: ...

    def on_header(self, name: bytes, value: bytes) -> None: ...

    def on_headers_complete(self) -> None: ...

    def on_body(self, data: bytes) -> None: ...

    def on_message_complete(self) -> None: ...


def _policy(client: Quota) -> Policy:
    plenty = LimitRule(name="address", quota=Quota(1_000_000, 1.0), per="address")
    key = ApiKey(name="benchmark", sha256=sha256(KEY.encode()).hexdigest())
    return Policy(auth="keys", keys=(key,), limits=(LimitRule(name="client", quota=client), plenty))


def _pipeline(policy: Policy) -> Pipeline:
    store = MemoryStore(limits_from(policy.limits))
    logins = Logins(policy.max_failed_logins)
    return Pipeline(policy, dialect("llamacpp"), store, logins, open_to_all=False, check_host=False)


def _head_stages() -> Iterator[Timing]:
    parser = httptools.HttpRequestParser(_Collector())
    yield timed("llhttp: the request, callbacks empty", lambda: parser.feed_data(_REQUEST))
    policy, path = _policy(Quota(1_000_000, 1.0)), PATH.encode()
    pipeline = _pipeline(policy)
    session = pipeline.session("127.0.0.1")
    clock = iter(range(1_000_000, 1 << 60))

    def enter() -> Visit | Refusal:
        return pipeline.enter(b"POST", path, _HEAD, session, next(clock) * 1e-5)

    if type(enter()) is not Visit:
        raise AssertionError("the request is not admitted")
    yield timed("enter: admitted, a known session", enter)
    yield timed("enter: admitted, a new session", lambda: pipeline.enter(
        b"POST", path, _HEAD, pipeline.session("127.0.0.1"), next(clock) * 1e-5))  # fmt: skip
    strict_policy = _policy(Quota(1, 86_400.0))
    strict = _pipeline(strict_policy)
    refused = strict.session("127.0.0.1")
    strict.enter(b"POST", path, _HEAD, refused, 10.0)
    refusal = strict.enter(b"POST", path, _HEAD, refused, 10.001)
    if type(refusal) is not Refusal:
        raise AssertionError("the request is not refused")
    yield timed("enter: refused, a known session", lambda: strict.enter(b"POST", path, _HEAD, refused, 10.002))
    quota_headers = QuotaHeaders(strict_policy.limits)
    writer = RefusalWriter(strict_policy.limits, quota_headers)
    yield timed("refusal: rendered, the same again", lambda: writer.render(refusal, close=False))
    numbers = iter(range(1 << 60))
    yield timed("quota headers: the same again", lambda: quota_headers.lines(Standing("client", 30, 60.0, 7, 12.0)))
    yield timed("quota headers: different each time", lambda: quota_headers.lines(
        Standing("client", 30, 60.0, next(numbers), 12.0)))  # fmt: skip


def _body_stages() -> Iterator[Timing]:
    policy = _policy(Quota(1_000_000, 1.0))
    pipeline = _pipeline(policy)
    visit = pipeline.enter(b"POST", PATH.encode(), _HEAD, pipeline.session("127.0.0.1"), 10.0)
    if type(visit) is not Visit or visit.route.form is None:
        raise AssertionError("the request is not admitted")
    form, generation = visit.route.form, policy.generation
    bounds = FieldBounds(
        max_logprobs=generation.max_logprobs, max_logit_bias=generation.max_logit_bias, grammar=generation.grammar,
        max_schema=generation.max_schema, max_schema_depth=generation.max_schema_depth,
    )  # fmt: skip
    value: dict[str, Any] = orjson.loads(_BODY)
    yield timed("prepare: the whole of it", lambda: pipeline.prepare(visit, _HEAD, _BODY, 10.0))
    yield timed("  orjson: the body read", lambda: orjson.loads(_BODY))
    yield timed("  depth bounded", lambda: depth_exceeds(value, policy.bounds.max_depth))
    yield timed("  form: read", lambda: form.read(value))
    yield timed("  fields checked", lambda: check_fields(value, bounds))
    yield timed("  form: clamped", lambda: form.clamp(value, 64))
    yield timed("  orjson: the body written", lambda: orjson.dumps(value))


def _answer_stages() -> Iterator[Timing]:
    parser = httptools.HttpResponseParser(_Collector())
    whole = _ANSWER_HEAD + _ANSWER
    yield timed("llhttp: the answer, callbacks empty", lambda: parser.feed_data(whole))
    route = dialect("llamacpp").match(b"POST", PATH.encode())
    if route is None or route.form is None:
        raise AssertionError("the dialect has no chat")
    form = route.form
    answer: dict[str, Any] = orjson.loads(_ANSWER)
    yield timed("orjson: the answer read", lambda: orjson.loads(_ANSWER))
    yield timed("form: usage of an answer", lambda: form.usage(answer))
    yield timed("usage from the end of a stream", lambda: last_usage(form, _STREAM_TAIL))
    metrics = Metrics()
    yield timed("metrics: one request counted", lambda: metrics.finished(_FINISHED))
    yield timed("log: one JSON line", lambda: json_line(_FINISHED))


if __name__ == "__main__":
    print_table("From the head", _head_stages())
    print_table("With the body", _body_stages())
    print_table("After the answer", _answer_stages())
