"""Corral keeps a self-hosted Llama endpoint standing."""

from corral.errors import CorralError

__all__ = ["CorralError", "__version__"]
__version__ = "0.1.0"
