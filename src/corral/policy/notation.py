"""How quotas, sizes and durations are written, and read."""

import math
import re

from corral.errors import PolicyError
from corral.policy.model import Quota

_SECONDS = {
    "ms": 0.001, "millisecond": 0.001, "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600,
    "hour": 3600, "d": 86400, "day": 86400, "week": 604800,
}  # fmt: skip
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_UNITS = ("requests", "tokens", "input tokens", "output tokens")

MAX_AMOUNT = 10**12
MAX_WINDOW = 366 * 86400.0

_QUOTA = re.compile(
    r"\s*(?P<amount>[\d_]+)\s*(?P<unit>(?:(?:input|output)\s+)?[a-z]+)?\s*(?:/|\bper\b)\s*(?P<every>\d+(?:\.\d+)?)?\s*(?P<span>[a-z]+)\s*",
    re.IGNORECASE,
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)", re.IGNORECASE)
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_quota(text: object) -> Quota:
    """Read "30/minute", "5 per second", "20000 output tokens/hour" or "30 per 60 seconds". Raises PolicyError."""
    match = _QUOTA.fullmatch(text) if isinstance(text, str) else None
    span = _span(match["span"]) if match else None
    unit = " ".join((match["unit"] or "requests").lower().split()) if match else ""
    unit = unit if unit.endswith("s") else unit + "s"
    if match is None or span is None or unit not in _UNITS:
        raise PolicyError(
            f'{_shown(text)} is no quota: write it as "30/minute", "20000 tokens/hour" or "30 per 60 seconds".'
        )
    amount = int(match["amount"].replace("_", "") or "0")
    window = float(match["every"] or 1) * span
    if not 1 <= amount <= MAX_AMOUNT:
        raise PolicyError(f'{_shown(text)} is no quota: the amount must be from 1 to {MAX_AMOUNT}, as in "30/minute".')
    if not 0.001 <= window <= MAX_WINDOW:
        raise PolicyError(f"{_shown(text)} is no quota: the time must be from 1 ms to 366 days.")
    return Quota(amount, window, unit)


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
        raise PolicyError(f'{_shown(text)} is no duration: write it as "20s", "1m30s" or "500ms".')
    return seconds


def parse_weight(value: object) -> float:
    """Read a share beside others: a number such as 2 or 0.5, no unit. Raises PolicyError."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise PolicyError(f"{_shown(value)} is no weight: write a number, as 2 or 0.5.")


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
    """Say a quota in words: "30 requests per minute"."""
    unit = quota.unit.removesuffix("s")
    return f"{describe_count(quota.amount, unit)} per {describe_duration(quota.window).removeprefix('1 ')}"


def describe_count(number: int, thing: str) -> str:
    """Say how many: "1 request", "2,000 requests"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def describe_duration(seconds: float) -> str:
    """Say a duration in words: "1 minute", "90 seconds"."""
    for span, name in ((604800, "week"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= span and seconds % span == 0:
            number = int(seconds // span)
            return f"{number:,} {name}{'' if number == 1 else 's'}"
    return f"{seconds:g} seconds"


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
