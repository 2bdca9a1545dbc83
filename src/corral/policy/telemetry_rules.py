"""What `[telemetry]` may not say."""

from collections.abc import Iterator
from dataclasses import fields
from urllib.parse import urlsplit

from corral.policy.model import Policy, Telemetry
from corral.policy.names import NOT_SENDABLE


def telemetry_applies(policy: Policy) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Find what says how to trace where nothing is traced, and a collector or a parent that cannot be had."""
    telemetry, default = policy.telemetry, Telemetry()
    if telemetry.endpoint is None:
        for name in (described.name for described in fields(Telemetry)):
            if getattr(telemetry, name) != getattr(default, name):
                yield ("telemetry", name), "nothing is traced without telemetry.endpoint; name the collector there."
        return
    try:
        parts = urlsplit(telemetry.endpoint)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield ("telemetry", "endpoint"), f'"{telemetry.endpoint}" is no URL; write "http://127.0.0.1:4318/v1/traces".'
    elif parts.path in ("", "/"):
        yield (
            ("telemetry", "endpoint"),
            f'write the whole URL, with its path: "{telemetry.endpoint.rstrip("/")}/v1/traces".',
        )
    authorization = telemetry.authorization or ""
    if not (authorization.isascii() and authorization.isprintable()):
        yield ("telemetry", "authorization"), NOT_SENDABLE
    if telemetry.parent == "proxies" and not policy.identity.trusted_proxies:
        yield (
            ("telemetry", "parent"),
            'there are no identity.trusted_proxies whose word counts; name them, or write "none".',
        )
    if telemetry.max_waiting < 1:
        yield ("telemetry", "max_waiting"), "this must be at least 1."
