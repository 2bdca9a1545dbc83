"""What was learnt of the servers, in words."""

from collections.abc import Iterator

from corral.guard.gateway.upstreams import Upstreams, UpstreamServer


def describe_servers(upstreams: Upstreams) -> list[str]:
    """Say how many slots each server has, as far as that is known, and how many requests run at once in all."""
    said = [sentence for server in upstreams.servers for sentence in _server(server)]
    places = upstreams.balance.places
    slots = sum(server.load.slots for server in upstreams.servers)
    if places < slots and not upstreams.away:
        said.append(f"Of these {slots} slots {places} are used at once.")
    return said


def _server(server: UpstreamServer) -> Iterator[str]:
    which = f"The server {server.name} ({server.settings.url})"
    slots, told = server.load.slots, server.told
    running = "1 request runs" if slots == 1 else f"{slots} requests run"
    if not server.load.usable or server.circuit.failures:
        yield f"{which} is not well: {server.reason}. It is asked until it is."
    elif told is None and server.to_be_told:
        yield (
            f"{which} does not say how many slots it has, so {running} there at once. If it has more, name them in the "
            "policy (slots), or the key that it demands (api_key)."
        )
    elif told is not None and told == slots:
        yield f"{which} has {_count(told)}: {running} there at once."
    elif told is not None and server.settings.slots is not None:
        yield f"{which} has {_count(told)}, but {running} there at once, as the policy says."
    elif told is not None:
        yield f"{which} has {_count(told)}: {running} there at once; upstream.max_connections leaves no room for more."


def _count(slots: int) -> str:
    return "1 slot" if slots == 1 else f"{slots} slots"
