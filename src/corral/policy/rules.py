"""What a policy may not say, though each of its values is well formed: contradictions, and limits that cannot apply."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import ip_network

from corral.errors import PolicyError
from corral.policy.address import parse_endpoint
from corral.policy.cors_rules import cors_is_sane
from corral.policy.jwt_rules import jwt_is_whole
from corral.policy.model import LimitRule, Policy
from corral.policy.names import is_name
from corral.policy.partition_rules import wrong_partitions
from corral.policy.servers import servers_are_sane
from corral.policy.telemetry_rules import telemetry_applies
from corral.policy.unit_rules import counts_have_room, prices_are_whole, wrong_units

KeyPath = tuple[str | int, ...]
Rule = Callable[[Policy], Iterator[tuple[KeyPath, str]]]
"""Yields the path of each value that is wrong, and what to write instead."""

_PATH = re.compile(r"/[!-~]*")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def check(policy: Policy) -> Iterator[tuple[KeyPath, str]]:
    """Apply every rule, in order."""
    for rule in RULES:
        yield from rule(policy)


def _places_of_limits(policy: Policy) -> Iterator[tuple[KeyPath, LimitRule]]:
    for index, limit in enumerate(policy.limits):
        yield ("limits", index), limit
    for name, plan in policy.plan.items():
        for index, limit in enumerate(plan.limits):
            yield ("plan", name, "limits", index), limit


def _limits_apply(policy: Policy) -> Iterator[tuple[KeyPath, str]]:
    for here, limit in _places_of_limits(policy):
        if not is_name(limit.name):
            yield (*here, "name"), f'"{limit.name}" is no name: use letters, digits, "-" and "_", 64 at most.'
        if limit.algorithm == "window" and limit.burst is not None:
            yield (*here, "burst"), 'a "window" limit has no burst; remove it, or write algorithm = "gcra".'
        if limit.burst is not None and limit.burst < 1:
            yield (*here, "burst"), "a burst lets at least 1 request through."
        for name, message in wrong_units(policy, limit):
            yield (*here, name), message
        for message in wrong_partitions(policy, limit):
            yield (*here, "per"), message
    places = {limit.name: here for here, limit in _places_of_limits(policy)}
    for name, count in Counter(limit.name for _, limit in _places_of_limits(policy)).items():
        if count > 1:
            yield (*places[name], "name"), f'two limits are called "{name}"; give each a name of its own.'
    if policy.max_failed_logins.unit != "requests":
        yield ("max_failed_logins",), 'this counts requests; write it as "10/minute".'


def _keys_are_hashes(policy: Policy) -> Iterator[tuple[KeyPath, str]]:
    for index, key in enumerate(policy.keys):
        if not _SHA256.fullmatch(key.sha256):
            yield (
                ("keys", index, "sha256"),
                ('this must be the key\'s SHA-256, 64 hexadecimal digits: printf %s "$KEY" | sha256sum'),
            )
        if not is_name(key.name):
            yield ("keys", index, "name"), 'use letters, digits, "-" and "_", 64 at most.'
        if key.plan is not None and key.plan not in policy.plan:
            yield ("keys", index, "plan"), f"there is no plan {_quoted(key.plan)}. {_plans_known(policy)}"
    for attribute in ("name", "sha256"):
        values = [getattr(key, attribute).lower() for key in policy.keys]
        for index, value in enumerate(values):
            if value in values[:index]:
                yield ("keys", index, attribute), f"another key has the same {attribute}."
    if policy.auth == "none" and policy.keys:
        yield ("auth",), 'with auth = "none" the configured keys would never be asked for; write auth = "keys".'
    if policy.auth == "none" and policy.credentials.store:
        yield ("auth",), 'with auth = "none" the keys in credentials.store would never be asked for; write "keys".'


def _plans_are_sane(policy: Policy) -> Iterator[tuple[KeyPath, str]]:
    for name, plan in policy.plan.items():
        if not is_name(name):
            yield ("plan", name), 'a plan\'s name has letters, digits, "-" and "_", 64 at most.'
        if not plan.priority > 0:
            yield ("plan", name, "priority"), "a weight is more than 0; 1 is what clients without a plan have."
        if plan.max_tokens is not None and plan.max_tokens < 1:
            yield ("plan", name, "max_tokens"), "this must be at least 1."
        if "" in plan.models:
            yield ("plan", name, "models", plan.models.index("")), "a model has a name."


def _plans_known(policy: Policy) -> str:
    known = ", ".join(map(_quoted, policy.plan))
    return f"Known: {known}." if known else "Add one, as [plan.pro]."


def _quoted(name: str) -> str:
    return f'"{name}"' if len(name) <= 64 else f'"{name[:64]}…"'


def _addresses_parse(policy: Policy) -> Iterator[tuple[KeyPath, str]]:
    endpoints = {}
    for path, text in ((("listen", "address"), policy.listen.address), (("admin", "listen"), policy.admin.listen)):
        if text is not None:
            try:
                endpoints[path] = parse_endpoint(text)
            except PolicyError as error:
                yield path, str(error)
    listen, admin = endpoints.get(("listen", "address")), endpoints.get(("admin", "listen"))
    if listen is not None and listen == admin and listen.port:
        yield ("admin", "listen"), "this is the address that the guard itself listens on; choose another port."
    for index, network in enumerate(policy.identity.trusted_proxies):
        try:
            ip_network(network)
        except ValueError as error:
            yield ("identity", "trusted_proxies", index), f'{error}; write a network as "10.0.0.0/8".'


def _admin_key_applies(policy: Policy) -> Iterator[tuple[KeyPath, str]]:
    key = policy.admin.key_sha256
    if key is None:
        return
    if not _SHA256.fullmatch(key):
        yield (
            ("admin", "key_sha256"),
            ('this must be the key\'s SHA-256, 64 hexadecimal digits: printf %s "$KEY" | sha256sum'),
        )
    if policy.admin.listen is None:
        yield ("admin", "key_sha256"), 'there is no listener that it would open: add admin.listen = "127.0.0.1:9464".'


def _tls_is_whole(policy: Policy) -> Iterator[tuple[KeyPath, str]]:
    listen = policy.listen
    if (listen.tls_certificate is None) != (listen.tls_key is None):
        missing = "tls_key" if listen.tls_key is None else "tls_certificate"
        yield ("listen", missing), "a certificate and its key belong together; write both."


def _health_is_sane(policy: Policy) -> Iterator[tuple[KeyPath, str]]:
    health = policy.health
    if health.max_pause < health.pause:
        yield ("health", "max_pause"), "this must be at least health.pause."
    if health.path is not None and not _PATH.fullmatch(health.path):
        yield ("health", "path"), 'write a path as "/health", without spaces.'


_AT_LEAST: tuple[tuple[str, str, float], ...] = (
    ("concurrency", "max_running", 1), ("concurrency", "max_waiting", 0), ("concurrency", "max_waiting_bytes", 0),
    ("concurrency", "max_wait", 0.001),
    ("generation", "max_tokens", 1), ("generation", "max_prompt", 1), ("generation", "max_choices", 1),
    ("generation", "max_inputs", 1), ("generation", "max_logprobs", 0), ("generation", "max_logit_bias", 0),
    ("generation", "max_schema", 0), ("generation", "max_schema_depth", 1),
    ("bounds", "max_head", 512), ("bounds", "max_headers", 8), ("bounds", "max_body", 1), ("bounds", "max_depth", 4),
    ("bounds", "head_timeout", 0.1), ("bounds", "body_timeout", 0.1), ("bounds", "idle_timeout", 0.1),
    ("bounds", "write_timeout", 0.1), ("bounds", "total_timeout", 0.1), ("bounds", "max_connections", 1),
    ("bounds", "max_connections_per_address", 1), ("bounds", "max_clients", 1),
    ("identity", "ipv4_prefix", 1), ("identity", "ipv6_prefix", 1),
    ("upstream", "connect_timeout", 0.1), ("upstream", "first_byte_timeout", 0.1), ("upstream", "idle_timeout", 0.1),
    ("upstream", "max_connections", 2), ("upstream", "max_answer", 1024),
    ("health", "interval", 0.1), ("health", "timeout", 0.1), ("health", "failures", 1), ("health", "pause", 0.1),
)  # fmt: skip


def _numbers_are_sane(policy: Policy) -> Iterator[tuple[KeyPath, str]]:
    for section, name, least in _AT_LEAST:
        given = getattr(getattr(policy, section), name)
        if given is not None and given < least:
            yield (section, name), f"this must be at least {least:g}."
    for name, most in (("ipv4_prefix", 32), ("ipv6_prefix", 64)):
        if getattr(policy.identity, name) > most:
            yield ("identity", name), f"this must be at most {most}."


RULES: tuple[Rule, ...] = (
    _limits_apply,
    _keys_are_hashes,
    _plans_are_sane,
    prices_are_whole,
    counts_have_room,
    jwt_is_whole,
    _addresses_parse,
    _admin_key_applies,
    servers_are_sane,
    _health_is_sane,
    _tls_is_whole,
    cors_is_sane,
    _numbers_are_sane,
    telemetry_applies,
)
