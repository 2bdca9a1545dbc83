"""The scanner's statistics, grades, budget and choice of targets."""

import asyncio
import itertools
import math

import pytest

from corral.errors import TargetError, UsageError
from corral.scan.budget import Budget, BudgetSpentError
from corral.scan.checks import CHECKS
from corral.scan.finding import Finding, Severity, Verdict
from corral.scan.grading import grade, score, untold
from corral.scan.observation import Observation
from corral.scan.patience import _UNTOLD, retry_after
from corral.scan.statistics import mann_whitney_greater, median
from corral.scan.target import find_target
from corral.scan.wire import Wire, _declared_limit


def test_mann_whitney_agrees_with_counting_every_arrangement():
    larger, smaller = [3.1, 4.2, 5.3, 6.4, 7.5], [1.0, 2.0, 3.0, 4.0, 5.0]
    pooled = larger + smaller

    def wins(chosen: tuple[int, ...]) -> int:
        return sum(pooled[i] > pooled[j] for i in chosen for j in range(10) if j not in chosen)

    arrangements = list(itertools.combinations(range(10), 5))
    exact = sum(wins(chosen) >= wins((0, 1, 2, 3, 4)) for chosen in arrangements) / len(arrangements)
    assert mann_whitney_greater(larger, smaller) == pytest.approx(exact, abs=0.01)


def test_mann_whitney_corrects_for_ties_and_continuity():
    # U = 20.5, mean 12.5, variance 25/12 · (11 − 18/90) = 22.5; z = 7.5 / √22.5
    assert mann_whitney_greater([3, 4, 5, 6, 7], [1, 2, 3, 4, 5]) == pytest.approx(0.0569, abs=1e-4)
    assert mann_whitney_greater([], [1]) == 1.0
    assert mann_whitney_greater([1, 1], [1, 1]) == 1.0


def test_median():
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5
    assert math.isnan(median([]))


def findings(**vulnerable: Verdict) -> list[Finding]:
    said = {name.replace("_", "."): verdict for name, verdict in vulnerable.items()}
    return [Finding(check.id, said.get(check.id, Verdict.SAFE), check.severity, ()) for check in CHECKS]


def test_all_safe_is_the_best_grade():
    assert (grade(findings(), loopback=True), score(findings())) == ("A+", 100)


def test_an_open_question_keeps_from_the_best_grade_only():
    assert grade(findings(signal_headers=Verdict.INCONCLUSIVE), loopback=True) == "A"


def test_too_many_open_questions_keep_from_a_good_grade():
    unclear = ("signal_headers", "load_degradation", "input_malformed", "input_empty")
    assert grade(findings(**dict.fromkeys(unclear, Verdict.INCONCLUSIVE)), loopback=True) == "C"


def test_nothing_learned_is_no_grade():
    nothing = [Finding(check.id, Verdict.INCONCLUSIVE, check.severity, ()) for check in CHECKS]
    assert grade(nothing, loopback=True) is None
    assert untold(nothing) == ["auth.missing", "rate.burst", "tokens.unbounded"]


@pytest.mark.parametrize("check", ["auth_missing", "rate_burst", "tokens_unbounded"])
def test_what_matters_most_must_be_told_for_a_grade(check):
    assert grade(findings(**{check: Verdict.INCONCLUSIVE}), loopback=True) is None


def test_what_is_f_already_stays_so():
    told = findings(auth_missing=Verdict.VULNERABLE, rate_burst=Verdict.INCONCLUSIVE)
    assert grade(told, loopback=False) == "F"


def test_caps():
    assert grade(findings(auth_missing=Verdict.VULNERABLE), loopback=False) == "F"
    assert grade(findings(auth_missing=Verdict.VULNERABLE), loopback=True) == "D"
    assert grade(findings(rate_burst=Verdict.VULNERABLE), loopback=True) == "D"
    assert grade(findings(tokens_unbounded=Verdict.VULNERABLE), loopback=True) == "C"


def test_severities_are_ordered():
    assert [severity.rank for severity in Severity] == [0, 1, 2, 3, 4]


def test_a_budget_is_never_exceeded():
    budget = Budget(requests=2, tokens=10)
    budget.reserve(5)
    with pytest.raises(BudgetSpentError):
        budget.reserve(6)
    budget.reserve(5)
    with pytest.raises(BudgetSpentError):
        budget.reserve()
    assert (budget.requests, budget.tokens) == (2, 10)


def test_a_budget_ends_with_its_time():
    with pytest.raises(BudgetSpentError):
        Budget(seconds=0).reserve()


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "127.0.0.1:8080/v1", "http://[::1]:1/", "http://10.0.0.1"])
def test_loopback_and_private_targets_may_be_scanned(url):
    assert find_target(url).url.rstrip("/").endswith(("8080", "1"))


def test_a_public_target_takes_the_owners_word():
    with pytest.raises(TargetError, match="--i-own-this"):
        find_target("http://8.8.8.8")
    assert find_target("http://8.8.8.8", owned=True).host == "8.8.8.8"


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "http://127.0.0.1:99999999", "http://user:pw@127.0.0.1"])
def test_what_is_no_target_is_refused(url):
    with pytest.raises(UsageError):
        find_target(url)


def test_a_name_that_is_nowhere_is_an_error():
    with pytest.raises(TargetError, match="cannot be found"):
        find_target("http://no-such-host.invalid")


@pytest.mark.parametrize(
    ("said", "wait"), [("3", 3.0), ("11", 11.0), *((odd, _UNTOLD) for odd in ("9" * 5000, "²", "٣", "", "-1"))]
)
def test_a_target_cannot_upset_the_scan_by_its_numbers(said, wait):
    assert retry_after(Observation("x", 429, {"retry-after": said})) == wait
    assert _declared_limit({"x-corral-max-tokens": said}) == {"3": 3, "11": 11}.get(said)


@pytest.mark.parametrize(
    ("line", "status"), [("200 OK", 200), ("²²² X", None), ("9" * 5000, None), ("٣٣٣ X", None), ("20 X", None)]
)
def test_a_status_line_that_is_none_is_no_answer(line, status):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n".encode("utf-8" if "٣" in line else "latin-1"))
        await writer.drain()
        writer.close()

    async def ask():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            target = find_target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            wire = Wire(target, Budget(), key=None, headers={}, timeout=5.0)
            try:
                return await wire.raw([b"GET / HTTP/1.1\r\n\r\n"], "GET /")
            finally:
                await wire.close()

    assert asyncio.run(ask()).status == status
