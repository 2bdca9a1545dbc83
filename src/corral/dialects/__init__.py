"""What each inference API speaks."""

from corral.dialects.llamacpp import LLAMACPP
from corral.dialects.llamacpp_python import LLAMACPP_PYTHON
from corral.dialects.ollama import OLLAMA
from corral.dialects.openai import OPENAI
from corral.dialects.table import TableDialect

DIALECTS: tuple[TableDialect, ...] = (LLAMACPP, LLAMACPP_PYTHON, OPENAI, OLLAMA)

_BY_NAME = {known.name: known for known in DIALECTS}


def dialect(name: str) -> TableDialect:
    """Find a dialect by the name that the policy gives it."""
    return _BY_NAME[name]
