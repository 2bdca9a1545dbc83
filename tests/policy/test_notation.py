"""How quotas, sizes and durations are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import PolicyError
from corral.policy.model import Quota
from corral.policy.notation import (
    describe_duration,
    describe_quota,
    describe_size,
    parse_duration,
    parse_quota,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("30/minute", Quota(30, 60.0)),
        ("5/second", Quota(5, 1.0)),
        ("5 per second", Quota(5, 1.0)),
        ("20000 tokens/hour", Quota(20000, 3600.0, "tokens")),
        ("20000 input tokens/hour", Quota(20000, 3600.0, "input tokens")),
        ("5_000 Output  Token per 2 minutes", Quota(5000, 120.0, "output tokens")),
        ("30 per 60 seconds", Quota(30, 60.0)),
        ("100/5 minutes", Quota(100, 300.0)),
        ("1_000 requests / day", Quota(1000, 86400.0)),
        ("1 request per week", Quota(1, 604800.0)),
        ("2/500ms", Quota(2, 0.5)),
    ],
)
def test_quotas_are_read(text, quota):
    assert parse_quota(text) == quota


@pytest.mark.parametrize(
    "text", ["", "30", "30/fortnight", "0/minute", "-1/minute", "30 cats/minute", "9" * 20 + "/minute", "1/400 days", 30,
             "30/minute/hour", "1/0.1ms", None]
)  # fmt: skip
def test_what_is_no_quota_is_refused_with_what_to_write(text):
    with pytest.raises(PolicyError, match=r"is no quota"):
        parse_quota(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20s", 20), ("1m30s", 90), ("500ms", 0.5), ("1h", 3600), (5, 5), (2.5, 2.5), ("2 minutes", 120), (0, 0)],
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "x", "20 cats", True, None, float("nan"), float("inf"), -1, "20s!", "1y"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(PolicyError, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1MiB", 2**20), ("64KiB", 65536), ("1MB", 10**6), ("1 gib", 2**30), (10, 10), ("10", 10), ("1.5KiB", 1536)],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "1 elephant", True, None, -1, "0.3B", "9999999999GiB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(PolicyError, match="is no size"):
        parse_size(text)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_and_nothing_else(text):
    for parse in (parse_quota, parse_duration, parse_size):
        try:
            parse(text)
        except PolicyError:
            pass


@given(st.integers(1, 10**9), st.sampled_from([1, 7, 60, 90, 3600, 86400, 604800]))
def test_a_quota_said_in_words_is_the_same_quota(amount, window):
    assert parse_quota(describe_quota(Quota(amount, float(window))).replace(",", "")) == Quota(amount, float(window))


def test_words_are_plain():
    assert describe_quota(Quota(30, 60.0)) == "30 requests per minute"
    assert describe_quota(Quota(5, 90.0)) == "5 requests per 90 seconds"
    assert describe_duration(0.5) == "0.5 seconds"
    assert describe_duration(7200) == "2 hours"
    assert describe_size(2**20) == "1 MiB"
    assert describe_size(1000) == "1,000 bytes"
