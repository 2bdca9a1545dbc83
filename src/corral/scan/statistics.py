"""One test: whether one sample tends to be larger than another."""

import math
from collections.abc import Sequence


def mann_whitney_greater(larger: Sequence[float], smaller: Sequence[float]) -> float:
    """Give the p-value of the one-sided Mann–Whitney U test that `larger` tends to exceed `smaller`.

    By the normal approximation with tie and continuity corrections; 1.0 where a sample is empty or all are equal.
    H. B. Mann, D. R. Whitney, Annals of Mathematical Statistics 18 (1947).
    """
    n, m = len(larger), len(smaller)
    if not n or not m:
        return 1.0
    wins = sum((a > b) + 0.5 * (a == b) for a in larger for b in smaller)
    pooled = sorted([*larger, *smaller])
    counts: dict[float, int] = {}
    for value in pooled:
        counts[value] = counts.get(value, 0) + 1
    size = n + m
    ties = sum(count**3 - count for count in counts.values())
    variance = n * m / 12 * (size + 1 - ties / (size * (size - 1)))
    if variance <= 0:
        return 1.0
    z = (wins - n * m / 2 - 0.5) / math.sqrt(variance)
    return 0.5 * math.erfc(z / math.sqrt(2))


def median(values: Sequence[float]) -> float:
    """Give the middle value; NaN of none."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
