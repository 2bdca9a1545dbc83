"""What a request holds of token quotas while it runs, and what it is charged in the end.

A reservation is an upper bound: the prompt, as estimated, and the most that all its answers may have. It is held, not
spent: held tokens do not come back with time. When the request ends, what it used is charged and the rest let go.
"""

from typing import NamedTuple

from corral.engine.measures import Costs


class Tokens(NamedTuple):
    """So many tokens of a prompt and of its answers, each ≥ 0."""

    input: int
    output: int


_new = tuple.__new__
"""Builds a named tuple in 0.1 µs; calling its class takes 0.35 µs."""


def reserve(prompt: int, per_answer: int, answers: int) -> Tokens:
    """Reserve for a request: its whole prompt once, and the most that each of its answers may have.

    Embeddings, reranking and tokenising generate nothing: `per_answer` is 0, and the prompt alone is reserved.
    """
    return _new(Tokens, (prompt, per_answer * answers))


def settle(reserved: Tokens, prompt: int | None, completion: int | None) -> Tokens:
    """Say what is charged, from what the server reports to have used.

    What it does not report (None) is charged as it was reserved: unknown use is never refunded. Less than was reserved
    is a refund, and more is charged too.
    """
    read, written = reserved
    return _new(Tokens, (read if prompt is None else prompt, written if completion is None else completion))


def costs(tokens: Tokens) -> Costs:
    """Say what `tokens` cost by each measure of tokens; see `measures`."""
    read, written = tokens
    return read + written, read, written
