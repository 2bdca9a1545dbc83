"""The outside view: what an abuser could do to an endpoint, proved with few and small requests."""

import asyncio
from collections.abc import Mapping

from corral.scan.report.model import Report
from corral.scan.runner import scan_async

__all__ = ["Report", "scan", "scan_async"]


def scan(
    url: str,
    *,
    key: str | None = None,
    model: str | None = None,
    owned: bool = False,
    budget_requests: int = 200,
    headers: Mapping[str, str] | None = None,
    timeout: float = 15.0,
) -> Report:
    """Scan the endpoint at `url` and grade it.

    Args:
        url: The server's base URL, with or without `/v1`.
        key: A credential to scan with; without one, the outsider's view.
        model: The model to name in requests; the server's first if None.
        owned: Says that a target that is neither loopback nor private may be scanned.
        budget_requests: Most requests to send.
        headers: More headers to send with each request.
        timeout: Longest wait for one answer, in seconds.

    Raises:
        UsageError: `url` is no URL of a server.
        TargetError: the target cannot be reached, or may not be scanned.

    """
    return asyncio.run(
        scan_async(
            url, key=key, model=model, owned=owned, budget_requests=budget_requests, headers=headers, timeout=timeout
        )
    )
