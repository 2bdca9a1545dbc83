"""Pure decisions: limits, places. No I/O, no clock of its own; `now` is an argument."""

from corral.engine.limit import Limit, limits_from

__all__ = ["Limit", "limits_from"]
