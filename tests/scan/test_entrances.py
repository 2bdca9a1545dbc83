"""What a scan makes of how it is received: no endpoint, a refused key, a server that does not serve, a throttled scan."""

import asyncio

import pytest

from corral.errors import TargetError
from corral.scan import scan, scan_async
from corral.scan.checks.load_degradation import Degradation
from corral.scan.finding import Verdict
from corral.scan.report.json import as_json
from scripted_targets import answering

MODELS = '{"object":"list","data":[{"id":"tiny","object":"model","owned_by":"someone"}]}'


def verdicts(report) -> dict[str, Verdict]:
    return {finding.check: finding.verdict for finding in report.findings}


def endpoint(inference):
    """Answer `/health` and `/v1/models`; what is posted is up to `inference(headers)`."""

    def reply(method, path, headers, body):
        if method == "POST" and path in ("/v1/chat/completions", "/completion"):
            return inference(headers)
        if path == "/v1/models":
            return 200, {}, MODELS
        return (200, {}, "{}") if path == "/health" else (404, {}, "{}")

    return reply


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (501, {}, "Unsupported method"),
        (404, {}, "not found"),
        (405, {}, ""),
        (200, {"Content-Type": "text/html"}, "<html></html>"),
    ],
)
def test_a_server_without_any_inference_route_is_no_target(status, headers, body):
    def reply(method, *_):
        return (status, headers, body) if method == "POST" else (404, {}, "")

    with answering(reply) as url, pytest.raises(TargetError, match="is no inference endpoint"):
        scan(url)


def test_a_server_that_only_redirects_says_where_to():
    def reply(*_):
        return 301, {"Location": "https://elsewhere.example/"}, ""

    with answering(reply) as url, pytest.raises(TargetError, match="redirects to https://elsewhere"):
        scan(url)


def test_a_refused_key_is_an_error_and_no_grade():
    def inference(headers):
        return (200, {}, "{}") if headers.get("authorization") == "Bearer right" else (401, {}, "{}")

    with answering(endpoint(inference)) as url, pytest.raises(TargetError, match=r"refuses the key.*401"):
        scan(url, key="wrong")


@pytest.mark.parametrize("status", [500, 502, 503, 404, 400])
def test_a_server_that_serves_no_plain_request_gets_no_grade(status):
    with answering(endpoint(lambda _: (status, {}, '{"error":"model gone"}'))) as url:
        report = scan(url)
    assert report.grade is None
    assert report.score is None
    assert "not served" in report.stopped
    assert "model gone" in report.no_grade
    assert verdicts(report)["rate.burst"] is Verdict.INCONCLUSIVE
    assert verdicts(report)["input.malformed"] is Verdict.INCONCLUSIVE
    assert report.spent.requests < 20
    shown = as_json(report)
    assert (shown["grade"], shown["score"]) == (None, None)
    assert shown["no_grade"]


def test_a_throttled_scan_says_so_and_to_come_back():
    with answering(endpoint(lambda _: (429, {"Retry-After": "3600"}, "{}"))) as url:
        report = scan(url, key="mine")
    assert report.grade is None
    assert "throttles this scan" in report.stopped
    assert "scan again" in report.throttled
    assert set(verdicts(report).values()) <= {Verdict.INCONCLUSIVE, Verdict.SAFE}
    assert verdicts(report)["auth.missing"] is Verdict.INCONCLUSIVE
    assert as_json(report)["throttled"] == report.throttled


def test_a_throttled_scan_waits_as_told():
    asked = 0

    def inference(_headers):
        nonlocal asked
        asked += 1
        return (429, {"Retry-After": "1"}, "{}") if asked == 1 else (401, {}, "{}")

    with answering(endpoint(inference)) as url:
        report = scan(url)
    assert verdicts(report)["auth.missing"] is Verdict.SAFE
    assert report.throttled == ""
    assert report.spent.seconds >= 1


def test_a_stranger_who_is_shut_out_asks_little():
    """Where nothing is served without a key, what would be served need not be asked for."""
    asked = 0

    def inference(_headers):
        nonlocal asked
        asked += 1
        return (401, {}, "{}") if asked < 7 else (429, {"Retry-After": "3600"}, "{}")

    with answering(endpoint(inference)) as url:
        report = scan(url)
    said = verdicts(report)
    assert report.throttled == ""
    assert said["auth.missing"] is said["tokens.unbounded"] is said["input.empty"] is Verdict.SAFE
    assert said["load.degradation"] is said["rate.burst"] is Verdict.SAFE
    assert report.grade is not None
    assert report.spent.tokens == 0


def test_a_door_without_a_limit_is_no_reason_for_a_grade():
    with answering(endpoint(lambda _: (401, {}, "{}"))) as url:
        report = scan(url)
    assert report.grade is None
    assert "rate.burst could not be told" in report.no_grade
    assert "--key" in report.no_grade


@pytest.mark.parametrize("budget", [4, 5, 8])
def test_a_budget_too_small_to_learn_anything_gives_no_grade(budget):
    with answering(endpoint(lambda _: (200, {}, "{}"))) as url:
        report = scan(url, budget_requests=budget)
    assert report.grade is None
    assert report.spent.requests <= budget


def test_one_stream_that_does_not_end_is_proof_enough():
    events = "".join('data: {"x": 1}\n\n' for _ in range(400))
    with answering(endpoint(lambda _: (200, {"Content-Type": "text/event-stream"}, events))) as url:
        report = scan(url)
    assert verdicts(report)["tokens.unbounded"] is Verdict.VULNERABLE
    (finding,) = [finding for finding in report.findings if finding.check == "tokens.unbounded"]
    assert len(finding.evidence) == 1


def test_one_lost_connection_is_no_end_of_the_load():
    streams = 0

    def inference(_headers):
        nonlocal streams
        streams += 1
        if streams == 10:
            raise ConnectionError
        return 200, {"Content-Type": "text/event-stream"}, "".join('data: {"x": 1}\n\n' for _ in range(8))

    with answering(endpoint(inference)) as url:
        report = asyncio.run(scan_async(url, checks=(Degradation(),)))
    assert verdicts(report)["load.degradation"] is not Verdict.INCONCLUSIVE
    assert "(35 requests)" in report.findings[0].evidence[0]
