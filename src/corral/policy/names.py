"""What may name a key, a plan, a limit or a server."""

import re

NOT_SENDABLE = "this has characters that no header can carry; look whether a line end came along."

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_name(text: str) -> bool:
    """Tell whether `text` is a name: letters, digits, "-" and "_", 64 at most."""
    return _NAME.fullmatch(text) is not None
