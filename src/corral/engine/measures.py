"""What limits count besides requests: the units that a request holds while it runs, and is charged when it ends."""

Costs = tuple[int, ...]
"""What a request costs by each unit, in the order of `MEASURES`; only as many as a policy's limits count."""

MEASURES = ("tokens", "input tokens", "output tokens", "concurrent requests", "gpu-seconds", "cost")
"""The units; a limit's place here is its *measure*. The first three are of tokens."""

TOKEN_MEASURES = 3
"""How many of the measures are of tokens."""

INPUT = MEASURES.index("input tokens")
OUTPUT = MEASURES.index("output tokens")
CONCURRENT = MEASURES.index("concurrent requests")
COMPUTE = MEASURES.index("gpu-seconds")
MONEY = MEASURES.index("cost")

FREE: Costs = (0,) * len(MEASURES)
"""What a request costs that used nothing."""


def scale_of(unit: str) -> int:
    """Say how many of what the engine counts are one of a quota's units: GPU-seconds are counted in milliseconds.

    Money is counted in millionths, as a quota has it already.
    """
    return 1000 if unit == "gpu-seconds" else 1
