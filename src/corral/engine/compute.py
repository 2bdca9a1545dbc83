"""How long a server will compute on a request, told from how long it took for others.

A token that is written takes about as long as ten that are read. Each model has a rate, in milliseconds for each token
written, which follows what its server reports: fast upward and slowly downward, so that it leans to too much.
"""

import math

from corral.engine.tokens import Tokens

READ_AT_ONCE = 10
"""How many tokens a server reads in the time that it takes to write one."""

FIRST_RATE = 30.0
"""Milliseconds for a token before anything was measured: a middling model on one graphics card."""

MOST_MODELS = 1024

_UP = 0.5
_DOWN = 0.05


class ComputeRates:
    """Learns one rate for each model, for MOST_MODELS at most; a model that is not known takes that of all together."""

    __slots__ = ("_general", "_rates")

    def __init__(self) -> None:
        self._general = FIRST_RATE
        self._rates: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._rates)

    def estimate(self, model: str | None, tokens: Tokens) -> int:
        """Estimate the time for so many tokens, in milliseconds; at least 1."""
        return max(1, math.ceil(self._rates.get(model or "", self._general) * _size(tokens)))

    def learn(self, model: str | None, tokens: Tokens, measured: float) -> None:
        """Follow what a server reports: `measured` milliseconds for so many tokens."""
        size = _size(tokens)
        if size <= 0.0 or not 0.0 <= measured < math.inf:
            return
        name, rate = model or "", measured / size
        self._general = _towards(self._general, rate)
        own = self._rates.get(name)
        if own is not None:
            self._rates[name] = _towards(own, rate)
        elif len(self._rates) < MOST_MODELS:
            self._rates[name] = self._general


def _size(tokens: Tokens) -> float:
    return tokens.input / READ_AT_ONCE + tokens.output


def _towards(rate: float, measured: float) -> float:
    return rate + (_UP if measured > rate else _DOWN) * (measured - rate)
