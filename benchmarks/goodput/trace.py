"""When honest requests come, and how long they are: the arrival times of a real trace, scaled to this machine."""

import csv
from dataclasses import dataclass
from pathlib import Path

_TRACE = Path(__file__).with_name("azure_conversations.csv")

SHRINK = 8
"""Prompts and answers are this much shorter than in the trace: the model is small, and so is its context."""

_LONGEST_PROMPT = 384
_LONGEST_ANSWER = 64


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when, in seconds from the start, and how many tokens it brings and asks for."""

    at: float
    prompt_tokens: int
    answer_tokens: int


def arrivals(rate: float, seconds: float) -> list[Arrival]:
    """Take the trace's first requests, with its own bursts, at a mean of `rate` a second, for `seconds`."""
    with _TRACE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = min(len(rows), max(2, round(rate * seconds)))
    rows = rows[:wanted]
    span = float(rows[-1]["seconds"]) or 1.0
    return [
        Arrival(
            float(row["seconds"]) / span * seconds,
            min(_LONGEST_PROMPT, max(4, int(row["context_tokens"]) // SHRINK)),
            min(_LONGEST_ANSWER, max(2, int(row["generated_tokens"]) // SHRINK)),
        )
        for row in rows
    ]
