"""The servers that a policy names: the one of `[upstream]`, or those of `[[upstreams]]`."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from corral.policy.model import Policy, Upstream
from corral.policy.names import NOT_SENDABLE, is_name

ONE_AT_A_TIME = "llama-cpp-python"
"""The dialect whose server interrupts a running stream when another request comes."""

Path = tuple[str | int, ...]
Complaints = Iterator[tuple[Path, str]]

_INTERRUPTS = "llama-cpp-python's server interrupts a running stream when another request comes."
_WHERE = "write it in the [[upstreams]] entries: where there are any, they name the servers."


def servers(policy: Policy) -> dict[str, Upstream]:
    """List the servers by name, each with all that `[upstream]` says of it; a single one is called "upstream"."""
    shared = policy.upstream
    if not policy.upstreams:
        return {"upstream": shared}
    return {
        own.name: replace(shared, url=own.url, slots=own.slots, api_key=own.api_key or shared.api_key)
        for own in policy.upstreams
    }


def said_twice(table: Mapping[str, Any]) -> Complaints:
    """Find what a policy's table says in `[upstream]` though it belongs to each of its `[[upstreams]]`."""
    one = table.get("upstream")
    if table.get("upstreams") and isinstance(one, dict):
        for name in ("url", "slots"):
            if name in one:
                yield ("upstream", name), _WHERE


def servers_are_sane(policy: Policy) -> Complaints:
    """Check what is said of each server, and that they do not contradict one another."""
    one = policy.upstream
    if not policy.upstreams:
        yield from _one_is_sane(("upstream",), one)
    elif one.url != Upstream().url or one.slots is not None:
        yield ("upstream", "url" if one.slots is None else "slots"), _WHERE
    if policy.upstreams and one.api_key is not None and not one.api_key.isprintable():
        yield ("upstream", "api_key"), NOT_SENDABLE
    named: set[str] = set()
    urls: set[str] = set()
    for index, own in enumerate(policy.upstreams):
        here = ("upstreams", index)
        if own.name in named:
            yield (*here, "name"), f'two servers are called "{own.name}"; give each a name of its own.'
        if own.url.rstrip("/") in urls:
            yield (*here, "url"), f"{own.url} stands twice; a server that stands twice gets twice what it can do."
        named.add(own.name)
        urls.add(own.url.rstrip("/"))
        if not is_name(own.name):
            yield (*here, "name"), 'use letters, digits, "-" and "_", 64 at most.'
        yield from _one_is_sane(here, replace(one, url=own.url, slots=own.slots, api_key=own.api_key))
    yield from _places_fit(policy)


def _one_is_sane(here: Path, server: Upstream) -> Complaints:
    yield from _can_be_reached((*here, "url"), server.url)
    if server.api_key is not None and not server.api_key.isprintable():
        yield (*here, "api_key"), NOT_SENDABLE
    slots = server.slots
    if slots is None:
        return
    if slots < 1:
        yield (*here, "slots"), "this must be at least 1."
    elif slots >= server.max_connections:
        yield (*here, "slots"), f"this must be less than upstream.max_connections, which is {server.max_connections}."
    if slots > 1 and server.dialect == ONE_AT_A_TIME:
        yield (*here, "slots"), f"{_INTERRUPTS} It has 1 slot; leave this out."


def _places_fit(policy: Policy) -> Complaints:
    running = policy.concurrency.max_running
    if running is None:
        return
    number = max(1, len(policy.upstreams))
    if policy.upstream.dialect == ONE_AT_A_TIME and running > number:
        yield (
            ("concurrency", "max_running"),
            f"{_INTERRUPTS} So {number} may run, one on each server; leave this out, or start more servers.",
        )
    if policy.upstream.max_connections <= running and not policy.upstreams:
        yield (
            ("upstream", "max_connections"),
            (
                f"{running} requests may run at once (concurrency.max_running), and one that ends takes a moment to "
                f"free its connection to the server; write upstream.max_connections = {running + 1} or more."
            ),
        )


def _can_be_reached(here: Path, url: str) -> Complaints:
    try:
        parts = urlsplit(url)
    except ValueError:
        yield here, f'"{url}" is no server: write an IPv6 address in brackets, as "http://[::1]:8081".'
        return
    if parts.scheme == "unix":
        if not (parts.path or parts.netloc):
            yield here, 'name the socket, as "unix:/run/llama.sock".'
    elif parts.scheme == "https":
        yield here, "the guard speaks plain HTTP to the server; write http://, on a network you trust."
    elif parts.scheme != "http" or not parts.hostname:
        yield here, f'"{url}" is no server: write "http://host:port" or "unix:/path/to.sock".'
    elif parts.path not in ("", "/") or parts.query:
        yield here, "write the server's address alone, without a path: the guard knows the routes."
    try:
        _ = parts.port
    except ValueError:
        yield here, f'"{url}" has no valid port.'
