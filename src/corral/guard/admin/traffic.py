"""What the admin API shows of requests: those that run, those that wait, and the servers that they go to."""

from typing import Any

from corral.guard.admin.policy_view import without_credentials
from corral.guard.gateway.exchange import Exchange
from corral.guard.service import Guard


def requests(guard: Guard, now: float, *, most: int, named: str | None) -> dict[str, Any]:
    """List the requests that run or wait, the oldest first; of one client, where it is `named`."""
    found = [exchange for exchange in guard.listener.exchanges() if named is None or named in _names(exchange)]
    found.sort(key=_arrived)
    return {"count": len(found), "requests": [_shown(exchange, now) for exchange in found[:most]]}


def queue(guard: Guard, now: float, *, most: int) -> dict[str, Any]:
    """Tell who waits for a place, by client; who has waited longest first."""
    clients: dict[str, dict[str, Any]] = {}
    for exchange in sorted(guard.listener.exchanges(), key=_arrived):
        if not exchange.waits:
            continue
        name = _client(exchange)
        if name not in clients:
            clients[name] = {"client": name, "waiting": 0, "bytes": 0, "longest": _rounded(now - exchange.arrived)}
        clients[name]["waiting"] += 1
        clients[name]["bytes"] += exchange.bytes_in
    concurrency, admission = guard.policy.concurrency, guard.core.admission
    return {
        "waiting": admission.waiting,
        "max_waiting": concurrency.max_waiting,
        "bytes": admission.waiting_bytes,
        "max_bytes": concurrency.max_waiting_bytes,
        "expected_wait": admission.expected_wait(),
        "clients": list(clients.values())[:most],
    }


def find(guard: Guard, request_id: str) -> Exchange | None:
    """Find a request that runs or waits, by its id."""
    return next((known for known in guard.listener.exchanges() if known.request_id == request_id), None)


def upstreams(guard: Guard) -> dict[str, Any]:
    """Tell how each server is: `up` is whether it gets requests, `problem` what was wrong with it last, or nothing."""
    servers = [
        {
            "name": server.name,
            "url": without_credentials(server.settings.url),
            "up": server.load.usable,
            "problem": server.reason or None,
            "failures": server.failures,
            "slots": server.load.slots,
            "running": server.load.running,
            "tokens": round(server.load.outstanding),
            "connections": server.pool.open_connections,
            "max_connections": server.settings.max_connections,
        }
        for server in guard.core.upstreams.servers
    ]
    return {"upstreams": servers}


def _shown(exchange: Exchange, now: float) -> dict[str, Any]:
    visit = exchange.visit
    asked, key = visit.asked, visit.caller.key
    return {
        "id": exchange.request_id,
        "client": _client(exchange),
        "address": visit.caller.address,
        "plan": None if key is None else key.plan,
        "route": visit.route.name,
        "model": None if asked is None else asked.model,
        "upstream": None if exchange.server is None else exchange.server.name,
        "state": "waiting" if exchange.waits else "running",
        "age": _rounded(now - exchange.arrived),
        "stream": False if asked is None else asked.stream,
        "tokens": exchange.tokens_so_far,
        "max_tokens": visit.cap,
        "bytes": exchange.sent,
    }


def _client(exchange: Exchange) -> str:
    caller = exchange.visit.caller
    return caller.address if caller.key is None else caller.key.name


def _names(exchange: Exchange) -> tuple[str, str]:
    return _client(exchange), exchange.visit.caller.address


def _arrived(exchange: Exchange) -> tuple[float, bool, int]:
    """Sort the oldest first; what the loop read at one time by who runs, and by number."""
    return exchange.arrived, exchange.waits, int(exchange.request_id.rpartition("-")[2], 16)


def _rounded(seconds: float) -> float:
    return round(seconds, 3)
