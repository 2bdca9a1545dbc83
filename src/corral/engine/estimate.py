"""How many tokens a prompt will be, told from its bytes before any server has counted them.

A token is about four letters of English, two digits, two letters of an alphabet with accents or of its own (Cyrillic,
Greek, Arabic), one character of Chinese, Japanese, Korean or an Indic script, and half an emoji. Each model then has a
factor of its own, which follows what its server counts.
"""

import math

_LETTER = 0.25
_DIGIT = 0.5
_TWO_BYTES = 0.5
_THREE_BYTES = 1.0
_FOUR_BYTES = 2.0

_ALL = bytes(range(256))
_NO_DIGIT = bytes(byte for byte in _ALL if not 0x30 <= byte <= 0x39)
_NO_LEAD_OF_TWO = bytes(byte for byte in _ALL if not 0xC2 <= byte <= 0xDF)
_NO_LEAD_OF_THREE = bytes(byte for byte in _ALL if not 0xE0 <= byte <= 0xEF)
_NO_LEAD_OF_FOUR = bytes(byte for byte in _ALL if not 0xF0 <= byte <= 0xF4)

LEAST_FACTOR = 0.5
MOST_FACTOR = 4.0
"""Bounds of every factor: no client's texts can make another client's estimates absurd."""

MOST_MODELS = 64
"""How many models have a factor of their own; names are the clients' to invent. The rest share one."""

_UP = 0.2
_DOWN = 0.02
"""Steps towards a prompt that was longer, or shorter, than estimated: ten times as fast up as down settles where ten
elevenths of the weight of the errors are overestimates."""

_FULL_WEIGHT = 64.0
"""Estimates of as many tokens count half; templates make those of short prompts say little."""


def estimate(body: bytes, chars: int) -> float:
    """Estimate the tokens of a prompt of `chars` ≥ 0 characters in a UTF-8 `body`, by the scripts it is written in.

    `body` is JSON without escapes for what is not ASCII, as `orjson` writes it; it may hold more than the prompt.
    """
    digits = len(body.translate(None, _NO_DIGIT))
    tokens = _DIGIT * digits
    others = digits
    if not body.isascii():
        two = len(body.translate(None, _NO_LEAD_OF_TWO))
        three = len(body.translate(None, _NO_LEAD_OF_THREE))
        four = len(body.translate(None, _NO_LEAD_OF_FOUR))
        tokens += _TWO_BYTES * two + _THREE_BYTES * three + _FOUR_BYTES * four
        others += two + three + four
    return tokens + _LETTER * (chars - others) if chars > others else tokens


class Corrections:
    """A factor for each model, learnt from what its server counts; memory is bounded by `MOST_MODELS`.

    A model that is not known yet takes the factor of all models together.
    """

    __slots__ = ("_factors", "_general")

    def __init__(self) -> None:
        self._general = 1.0
        self._factors: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._factors)

    def factor(self, model: str | None) -> float:
        """Tell a model's factor, from LEAST_FACTOR to MOST_FACTOR."""
        return self._factors.get(model or "", self._general)

    def correct(self, model: str | None, estimated: float) -> int:
        """Correct an estimate for a model, rounded up; at least 1."""
        tokens = math.ceil(estimated * self._factors.get(model or "", self._general))
        return max(1, tokens)

    def learn(self, model: str | None, estimated: float, counted: int) -> None:
        """Follow what a server `counted` for a prompt that was `estimated` (before any correction)."""
        if estimated <= 0.0 or counted <= 0:
            return
        name = model or ""
        ratio = counted / estimated
        weight = estimated / (estimated + _FULL_WEIGHT)
        if ratio > MOST_FACTOR:
            ratio = MOST_FACTOR
        elif ratio < LEAST_FACTOR:
            ratio = LEAST_FACTOR
        general = self._general
        own = self._factors.get(name)
        self._general = _towards(general, ratio, weight)
        if own is not None or len(self._factors) < MOST_MODELS:
            self._factors[name] = _towards(general if own is None else own, ratio, weight)


def _towards(factor: float, ratio: float, weight: float) -> float:
    """Move a factor towards a ratio within the bounds, so that it stays within them."""
    return factor + (_UP if ratio > factor else _DOWN) * weight * (ratio - factor)
