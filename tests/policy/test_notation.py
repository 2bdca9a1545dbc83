"""How quotas, sizes and durations are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import PolicyError
from corral.policy.model import Quota
from corral.policy.notation import (
    describe_duration,
    describe_quota,
    describe_seconds,
    describe_size,
    parse_duration,
    parse_price,
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


@pytest.mark.parametrize(
    ("text", "quota", "said"),
    [
        ("4 concurrent requests", Quota(4, 0.0, "concurrent requests"), "4 concurrent requests"),
        ("1 concurrent", Quota(1, 0.0, "concurrent requests"), "1 concurrent request"),
        ("600 gpu-seconds/hour", Quota(600, 3600.0, "gpu-seconds"), "600 gpu-seconds per hour"),
        ("600 GPU seconds per 2 hours", Quota(600, 7200.0, "gpu-seconds"), "600 gpu-seconds per 2 hours"),
        ("20 cost/day", Quota(20_000_000, 86400.0, "cost", "", "day"), "20 cost per day"),
        ("0.5 USD/month", Quota(500_000, 31 * 86400.0, "cost", "usd", "month"), "0.5 usd per month"),
        ("20 eur/24 hours", Quota(20_000_000, 86400.0, "cost", "eur"), "20 eur per 24 hours"),
        ("0.000001 cost/hour", Quota(1, 3600.0, "cost"), "0.000001 cost per hour"),
    ],
)
def test_units_besides_requests_and_tokens(text, quota, said):
    assert parse_quota(text) == quota
    assert describe_quota(quota) == said
    assert parse_quota(said) == quota


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("0 concurrent requests", "a whole number"),
        ("4 concurrent requests/hour", "is no quota"),
        ("1.5 requests/minute", "a whole number"),
        ("20 tokens/month", "only costs go by the month"),
        ("20 usd/3 months", "only costs go by the month"),
        ("20 bitcoin/day", "is no quota"),
        ("0.0000001 usd/day", "a cost must be from"),
        ("200000000 usd/day", "a cost must be from"),
        ("0 usd/day", "a cost must be from"),
        ("5 gpu-hours/day", "is no quota"),
    ],
)
def test_what_is_no_quota_is_told_why(text, wrong):
    with pytest.raises(PolicyError, match=wrong):
        parse_quota(text)


@pytest.mark.parametrize("value", [0, 0.15, 3, 12.5, 0.000001])
def test_prices(value):
    assert parse_price(value) == value


@pytest.mark.parametrize("value", [-1, "0.15", True, 0.0000001, float("nan"), float("inf"), 10**9])
def test_what_is_no_price(value):
    with pytest.raises(PolicyError, match="is no price"):
        parse_price(value)


@pytest.mark.parametrize(
    ("seconds", "said"), [(1, "1 second"), (2, "2 seconds"), (60.0, "60 seconds"), (0.5, "0.5 seconds")]
)
def test_seconds_are_said_as_people_do(seconds, said):
    assert describe_seconds(seconds) == said
