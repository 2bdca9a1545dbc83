"""Corral keeps a self-hosted Llama endpoint standing."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from corral.errors import CorralError

if TYPE_CHECKING:
    from corral.guard.asgi import Guard
    from corral.guard.limit import Limit, LimitExceeded, limit

__all__ = ["CorralError", "Guard", "Limit", "LimitExceeded", "__version__", "limit"]
__version__ = "0.1.0"

_LATER = {
    "Guard": "corral.guard.asgi",
    "Limit": "corral.guard.limit",
    "LimitExceeded": "corral.guard.limit",
    "limit": "corral.guard.limit",
}
"""What is imported when it is first asked for, so that `import corral` stays light."""


def __getattr__(name: str) -> Any:
    """Import what an application asks for."""
    if name not in _LATER:
        raise AttributeError(f"module 'corral' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
