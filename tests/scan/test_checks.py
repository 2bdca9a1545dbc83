"""What each check concludes from what was seen."""

import pytest

from corral.scan.checks import CHECKS
from corral.scan.finding import Severity, Verdict
from corral.scan.observation import Observation, Reply

BY_ID = {check.id: check for check in CHECKS}


def seen(status: int | None = 200, sent: str = "POST", **more) -> Observation:
    return Observation(sent, status, **more)


def verdict(check: str, observations) -> Verdict:
    return BY_ID[check].judge(observations).verdict


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_nothing_seen_is_inconclusive(check):
    assert check.judge([]).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_no_answer_at_all_is_never_vulnerable(check):
    assert check.judge([seen(None, error="ConnectError")] * 3).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_every_check_says_what_it_is(check):
    assert check.title
    assert check.why.endswith(".")
    assert check.refs
    assert check.fix_corral
    assert check.fix_other
    assert check.__doc__


def test_ids_are_unique():
    assert len(BY_ID) == len(CHECKS)


@pytest.mark.parametrize(
    ("status", "headers", "reply"),
    [(200, {}, Reply.ALLOW), (429, {}, Reply.DENY), (529, {}, Reply.DENY), (503, {"retry-after": "1"}, Reply.DENY),
     (302, {"location": "/"}, Reply.REJECT), (503, {}, Reply.OVERLOAD), (401, {}, Reply.AUTH), (403, {}, Reply.AUTH), (400, {}, Reply.REJECT),
     (500, {}, Reply.FAULT), (None, {}, Reply.DEAD)],
)  # fmt: skip
def test_answers_are_classified(status, headers, reply):
    assert seen(status, headers=headers).reply is reply


@pytest.mark.parametrize(
    ("check", "observations", "expected"),
    [
        ("auth.missing", [seen(200), seen(401)], Verdict.VULNERABLE),
        ("auth.missing", [seen(401), seen(404)], Verdict.SAFE),
        ("auth.missing", [seen(429), seen(429)], Verdict.INCONCLUSIVE),
        ("auth.missing", [seen(401), seen(429)], Verdict.INCONCLUSIVE),
        ("auth.missing", [seen(401)], Verdict.INCONCLUSIVE),
        ("auth.missing", [seen(502), seen(502)], Verdict.INCONCLUSIVE),
        ("rate.burst", [seen(200)] * 50, Verdict.VULNERABLE),
        ("rate.burst", [seen(200)] * 30 + [seen(429)] * 20, Verdict.SAFE),
        ("rate.burst", [seen(401)] * 10 + [seen(429)] * 40, Verdict.SAFE),
        ("rate.burst", [seen(401)] * 50, Verdict.INCONCLUSIVE),
        ("rate.burst", [seen(200)] * 10, Verdict.INCONCLUSIVE),
        ("rate.burst", [seen(200)] * 20 + [seen(None, error="RemoteProtocolError")] * 30, Verdict.SAFE),
        ("rate.burst", [seen(429)] * 10, Verdict.SAFE),
        ("rate.burst", [seen(503, headers={"retry-after": "1"})] * 50, Verdict.INCONCLUSIVE),
        ("rate.burst", [seen(502)] * 50, Verdict.INCONCLUSIVE),
        ("signal.headers", [seen(200)], Verdict.VULNERABLE),
        ("signal.headers", [seen(200, headers={"ratelimit": '"a";r=1;t=1'})], Verdict.SAFE),
        ("signal.headers", [seen(401)], Verdict.INCONCLUSIVE),
        ("input.malformed", [seen(400)] * 6, Verdict.SAFE),
        ("input.malformed", [seen(400)] * 5 + [seen(500)], Verdict.VULNERABLE),
        ("input.malformed", [seen(400, body="Traceback (most recent call last)")] * 6, Verdict.VULNERABLE),
        ("input.malformed", [seen(400, seconds=4.5)] * 6, Verdict.VULNERABLE),
        ("input.malformed", [seen(401)] * 6, Verdict.SAFE),
        ("input.malformed", [seen(429)] * 6, Verdict.INCONCLUSIVE),
        ("input.malformed", [seen(503)] * 6, Verdict.INCONCLUSIVE),
        ("input.empty", [seen(200)], Verdict.VULNERABLE),
        ("input.empty", [seen(400)], Verdict.SAFE),
        ("input.empty", [seen(401)], Verdict.SAFE),
        ("input.empty", [seen(500)], Verdict.INCONCLUSIVE),
        ("input.empty", [seen(429)], Verdict.INCONCLUSIVE),
        ("input.empty", [seen(503)], Verdict.INCONCLUSIVE),
        ("proto.oversize", [seen(413), seen(413)], Verdict.SAFE),
        ("proto.oversize", [seen(400), seen(413)], Verdict.VULNERABLE),
        ("proto.oversize", [seen(401, early=True), seen(None, early=True, error="connection closed")], Verdict.SAFE),
        ("proto.oversize", [seen(None, early=True, error="timed out")], Verdict.INCONCLUSIVE),
        ("proto.oversize", [seen(429, early=True), seen(429, early=True)], Verdict.INCONCLUSIVE),
        ("expose.state", [seen(401)] * 3, Verdict.SAFE),
        ("expose.state", [seen(429), seen(401), seen(401)], Verdict.INCONCLUSIVE),
        ("expose.state", [seen(502)] * 3, Verdict.INCONCLUSIVE),
        ("expose.state", [seen(401), seen(200), seen(404)], Verdict.VULNERABLE),
        ("tokens.unbounded", [seen(200, events=306, ended=False, seconds=0.5)], Verdict.VULNERABLE),
        ("tokens.unbounded", [seen(200, events=100, ended=False, seconds=5.1)], Verdict.VULNERABLE),
        ("tokens.unbounded", [seen(200, events=100, seconds=1.0)], Verdict.SAFE),
        ("tokens.unbounded", [seen(400)], Verdict.SAFE),
        ("tokens.unbounded", [seen(401)], Verdict.SAFE),
        ("tokens.unbounded", [seen(500)], Verdict.INCONCLUSIVE),
        ("tokens.unbounded", [seen(429)] * 4, Verdict.INCONCLUSIVE),
        ("tokens.unbounded", [seen(200, events=100, seconds=1.0), seen(429)], Verdict.INCONCLUSIVE),
    ],
)
def test_verdicts(check, observations, expected):
    assert verdict(check, observations) is expected


def declared(limit: int, events: int, *, ended: bool) -> Observation:
    return seen(200, headers={"x-corral-max-tokens": str(limit)}, events=events, ended=ended, seconds=1.0)


def test_a_declared_limit_is_a_claim_to_be_proved():
    assert verdict("tokens.unbounded", [declared(500, 502, ended=True)]) is Verdict.SAFE
    assert verdict("tokens.unbounded", [declared(500, 600, ended=True)]) is Verdict.VULNERABLE
    assert verdict("tokens.unbounded", [declared(500, 516, ended=False)]) is Verdict.VULNERABLE
    assert verdict("tokens.unbounded", [declared(500, 200, ended=False)]) is Verdict.INCONCLUSIVE


def test_prompts_in_the_state_make_it_worse():
    finding = BY_ID["expose.state"].judge([seen(200, body='[{"prompt": "my secret"}]')])
    assert finding.severity is Severity.HIGH


def loads(alone: list[float], loaded: list[float]) -> list[Observation]:
    return [seen(sent="alone", first_byte=t) for t in alone] + [seen(sent="loaded", first_byte=t) for t in loaded]


def test_degradation_takes_ratio_amount_and_significance():
    assert verdict("load.degradation", loads([0.01] * 3, [0.05 + i / 1000 for i in range(36)])) is Verdict.VULNERABLE
    assert verdict("load.degradation", loads([0.01] * 3, [0.012 + i / 10000 for i in range(36)])) is Verdict.SAFE
    assert verdict("load.degradation", loads([0.01] * 3, [0.009, 0.05] * 18)) is Verdict.SAFE
    assert verdict("load.degradation", loads([0.01], [0.05])) is Verdict.INCONCLUSIVE


def test_a_load_that_is_refused_is_shed():
    shed = loads([0.01], [0.02] * 4) + [seen(429, sent="loaded")] * 8
    assert verdict("load.degradation", shed) is Verdict.SAFE
    assert verdict("load.degradation", [seen(401, sent="alone")]) is Verdict.SAFE


@pytest.mark.parametrize("status", [429, 503])
def test_a_load_that_was_never_let_in_says_nothing(status):
    assert verdict("load.degradation", [seen(status, sent="alone")]) is Verdict.INCONCLUSIVE
