"""How quotas, sizes and durations are written, and read."""

import math
import re
from decimal import Decimal

from corral.errors import PolicyError
from corral.policy.model import Quota

_SECONDS = {
    "ms": 0.001, "millisecond": 0.001, "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600,
    "hour": 3600, "d": 86400, "day": 86400, "week": 604800,
}  # fmt: skip
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_UNITS = ("requests", "tokens", "input tokens", "output tokens", "gpu-seconds", "cost")
_CURRENCIES = frozenset((
    "aud", "brl", "cad", "chf", "cny", "czk", "dkk", "eur", "gbp", "hkd", "ils", "inr", "jpy", "krw", "mxn", "nok",
    "nzd", "pln", "sek", "sgd", "try", "twd", "uah", "usd", "zar",
))  # fmt: skip
_MONTH = 31 * 86400.0
_MILLION = 1_000_000

MAX_AMOUNT = 10**12
MAX_COST = 10**8
MAX_WINDOW = 366 * 86400.0

_QUOTA = re.compile(
    r"\s*(?P<amount>[\d_]+(?:\.\d+)?)\s*(?P<unit>(?:(?:input|output)\s+)?[a-z]+(?:[-\s]seconds?)?)?\s*(?:/|\bper\b)"
    r"\s*(?P<every>\d+(?:\.\d+)?)?\s*(?P<span>[a-z]+)\s*",
    re.IGNORECASE,
)
_CONCURRENT = re.compile(r"\s*([\d_]+)\s*concurrent(?:\s+requests?)?\s*", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)", re.IGNORECASE)
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_quota(text: object) -> Quota:
    """Read "30/minute", "20000 output tokens/hour", "600 gpu-seconds/hour", "20 usd/day" or "4 concurrent requests".

    Raises:
        PolicyError: it is none of these.

    """
    if isinstance(text, str) and (at_once := _CONCURRENT.fullmatch(text)):
        return Quota(_whole(text, at_once[1]), 0.0, "concurrent requests")
    match = _QUOTA.fullmatch(text) if isinstance(text, str) else None
    unit, currency = _unit(match["unit"]) if match else ("", "")
    if match is None or not unit:
        raise PolicyError(_NO_QUOTA.format(_shown(text)))
    every, span = match["every"], match["span"].lower()
    if span in ("month", "months"):
        if unit != "cost" or (every and float(every) != 1):
            raise PolicyError(f'{_shown(text)} is no quota: only costs go by the month, as "20 usd/month"; write days.')
        window = _MONTH
    else:
        seconds = _span(span)
        if seconds is None:
            raise PolicyError(_NO_QUOTA.format(_shown(text)))
        window = float(every or 1) * seconds
    if not 0.001 <= window <= MAX_WINDOW:
        raise PolicyError(f"{_shown(text)} is no quota: the time must be from 1 ms to 366 days.")
    if unit == "cost":
        period = "" if every else {"d": "day", "day": "day", "month": "month"}.get(span, "")
        return Quota(_millionths(text, match["amount"]), window, unit, currency, period)
    return Quota(_whole(text, match["amount"]), window, unit)


_NO_QUOTA = (
    '{} is no quota: write it as "30/minute", "20000 tokens/hour", "30 per 60 seconds", "600 gpu-seconds/hour", '
    '"20 usd/day" or "4 concurrent requests".'
)


def _unit(written: str | None) -> tuple[str, str]:
    """Name a quota's unit and its currency, if it has one; the unit is "" where nobody knows it."""
    unit = " ".join((written or "requests").lower().split())
    if unit in ("gpu-second", "gpu-seconds", "gpu second", "gpu seconds"):
        return "gpu-seconds", ""
    if unit in _CURRENCIES:
        return "cost", unit
    if unit != "cost":
        unit = unit if unit.endswith("s") else unit + "s"
    return (unit if unit in _UNITS else ""), ""


def _whole(text: object, amount: str) -> int:
    number = amount.replace("_", "") or "0"
    if "." in number or not 1 <= int(number) <= MAX_AMOUNT:
        raise PolicyError(
            f'{_shown(text)} is no quota: the amount must be from 1 to {MAX_AMOUNT}, a whole number, as in "30/minute".'
        )
    return int(number)


def _millionths(text: object, amount: str) -> int:
    whole, _, part = (amount.replace("_", "") or "0").partition(".")
    money = int(whole) * _MILLION + int(f"{part[:6]:0<6}")
    if len(part) > 6 or not 1 <= money <= MAX_COST * _MILLION:
        raise PolicyError(
            f'{_shown(text)} is no quota: a cost must be from 0.000001 to {MAX_COST}, as in "20 usd/day".'
        )
    return money


def parse_duration(text: object) -> float:
    """Read "20s", "1m30s", "500ms" or a number of seconds. Raises PolicyError."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        seconds = float(text)
    else:
        seconds = math.nan
        pieces = _DURATION.findall(text) if isinstance(text, str) else []
        if pieces and not _DURATION.sub("", str(text)).strip():
            spans = [_span(span) for _, span in pieces]
            if None not in spans:
                seconds = sum(float(number) * (span or 0) for (number, _), span in zip(pieces, spans, strict=True))
    if not (math.isfinite(seconds) and 0 <= seconds <= MAX_WINDOW):
        raise PolicyError(f'{_shown(text)} is no duration: write it as "20s", "1m30s", "500ms" or "90d".')
    return seconds


def parse_weight(value: object) -> float:
    """Read a share beside others: a number such as 2 or 0.5, no unit. Raises PolicyError."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise PolicyError(f"{_shown(value)} is no weight: write a number, as 2 or 0.5.")


def parse_price(value: object) -> float:
    """Read a price: a number from 0 with six decimals at most, no currency. Raises PolicyError."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_COST:
        exact = Decimal(str(value)) * _MILLION
        if exact == exact.to_integral_value():
            return float(value)
    raise PolicyError(f"{_shown(value)} is no price: write a number, as 0.15, with six decimals at most.")


def parse_share(value: object) -> float:
    """Read a share of all: a number from 0 to 1. Raises PolicyError."""
    try:
        share = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise PolicyError(f"{_shown(value)} is no share: write a number from 0 to 1, as 0.1.")
    return share


def parse_size(text: object) -> int:
    """Read "1MiB", "64KiB", "1MB" or a number of bytes. Raises PolicyError."""
    if isinstance(text, int) and not isinstance(text, bool):
        size = float(text)
    else:
        match = _SIZE.fullmatch(text) if isinstance(text, str) else None
        factor = _BYTES.get(match[2].lower()) if match else None
        size = float(match[1]) * factor if match and factor is not None else math.nan
    if not 0 <= size <= 2**50 or not size.is_integer():
        raise PolicyError(f'{_shown(text)} is no size: write it as "1MiB", "64KiB" or a whole number of bytes.')
    return int(size)


def describe_quota(quota: Quota) -> str:
    """Say a quota in words: "30 requests per minute", "20 usd per day", "4 concurrent requests"."""
    if quota.unit == "cost":
        amount = describe_money(quota.amount, quota.currency)
    else:
        amount = describe_count(quota.amount, quota.unit.removesuffix("s"))
    if not quota.window:
        return amount
    span = quota.period or describe_duration(quota.window).removeprefix("1 ")
    if span == "day" and quota.unit == "cost" and not quota.period:
        span = "24 hours"  # "a day" of costs is the calendar's
    return f"{amount} per {span}"


def describe_money(millionths: int, currency: str = "") -> str:
    """Say an amount of money: "20 usd", "0.5 cost"."""
    whole, part = divmod(millionths, _MILLION)
    shown = f"{whole:,}.{part:06}".rstrip("0").rstrip(".")
    return f"{shown} {currency or 'cost'}"


def describe_count(number: int, thing: str) -> str:
    """Say how many: "1 request", "2,000 requests"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def describe_seconds(seconds: float) -> str:
    """Say a number of seconds as such: "1 second", "90 seconds", "0.5 seconds"."""
    return f"{seconds:g} second{'' if seconds == 1 else 's'}"


def describe_duration(seconds: float) -> str:
    """Say a duration in words: "1 minute", "90 seconds"."""
    for span, name in ((604800, "week"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= span and seconds % span == 0:
            number = int(seconds // span)
            return f"{number:,} {name}{'' if number == 1 else 's'}"
    return describe_seconds(seconds)


def describe_size(size: int) -> str:
    """Say a size: "1 MiB", "1,000 bytes"."""
    for factor, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= factor and size % factor == 0:
            return f"{size // factor:,} {name}"
    return f"{size:,} bytes"


def _span(name: str) -> float | None:
    name = name.lower()
    return _SECONDS.get(name) or _SECONDS.get(name.removesuffix("s"))


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= 60 else text[:57] + "…"
