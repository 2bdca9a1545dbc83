"""A guard as JSON: two looks, so that rates can be told."""

import time
from typing import Any

from corral.top.admin_client import AdminClient
from corral.top.rates import rates

_MOST = 1000


def look_twice(client: AdminClient, interval: float) -> dict[str, Any]:
    """Look, wait `interval` seconds, and look again; answers the second look by the API's names, with its rates.

    Raises:
        CorralError: as `AdminClient.look` does.

    """
    before = client.look(1)
    time.sleep(interval)
    now = client.look(_MOST)
    found = rates(before, now)
    return {
        "url": client.url,
        "status": now.status,
        "rates": None if found is None else found.as_json(),
        "clients": now.clients["clients"],
        "requests": now.requests["requests"],
        "queue": now.queue,
        "upstreams": now.upstreams["upstreams"],
    }
