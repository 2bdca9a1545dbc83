"""What tokens cost, in whole millionths of the currency: nothing is ever rounded in a client's favour."""

from collections.abc import Mapping
from typing import NamedTuple

from corral.engine.tokens import Tokens
from corral.policy.model import ANY_MODEL, Price

MILLION = 1_000_000


class _Rate(NamedTuple):
    """What a million tokens cost, in millionths of the currency."""

    input: int
    output: int


class Prices:
    """Prices tokens by model. `prices` must have one for ANY_MODEL, which all models have that are not in it."""

    __slots__ = ("_any", "_rates")

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._rates = {
            model: _Rate(round(price.input * MILLION), round(price.output * MILLION)) for model, price in prices.items()
        }
        self._any = self._rates[ANY_MODEL]

    def cost(self, model: str | None, tokens: Tokens) -> int:
        """Price so many tokens, rounded up to a millionth of the currency."""
        rate = self._rates.get(model or "", self._any)
        return -(-(tokens.input * rate.input + tokens.output * rate.output) // MILLION)

    def affordable(self, model: str | None, prompt: int, money: int) -> int | None:
        """Say how many tokens can be written for `money` beside a prompt; None where writing costs nothing."""
        rate = self._rates.get(model or "", self._any)
        left = money * MILLION - prompt * rate.input
        if left < 0:
            return 0
        return left // rate.output if rate.output else None
