"""What a policy means where the guard only answers proxies: heads are seen, bodies and the ends of requests are not.

A setting that is not known to apply there is an error where somebody wrote it, so that one that is added to the policy
is never passed over in silence. Defaults are not errors; `explain_authz` says what is not enforced.
"""

from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass, replace

from corral.errors import PolicyError
from corral.policy.address import parse_endpoint
from corral.policy.explain import describe_limit, describe_plans, in_shadow, who_is_let_in
from corral.policy.model import LimitRule, Policy, Quota

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""Whose questions are answered where the policy names no proxies: this machine's."""

APPLIES = frozenset((
    "auth", "max_failed_logins", "shadow", "listen", "upstream.dialect", "keys", "credentials", "jwt", "plan",
    "identity", "limits", "routes", "admin", "log", "telemetry", "bounds.max_head", "bounds.max_headers",
    "bounds.head_timeout", "bounds.body_timeout", "bounds.idle_timeout", "bounds.write_timeout",
    "bounds.shutdown_timeout", "bounds.max_connections", "bounds.max_connections_per_address", "bounds.max_clients",
))  # fmt: skip
"""The settings that mean the same as in a gateway: whole sections, or single ones of a section."""

INSTEAD = {
    "upstream": "the proxy's own configuration says which server it relays to, with which key and how long",
    "cors": "the proxy's own configuration says which pages may use the server",
    "upstreams": "the proxy's own configuration says among which servers it chooses",
    "health": "the proxy itself finds out whether its servers are well",
    "concurrency": "bound what runs at once at the server (llama-server -np) or at the proxy",
    "generation": "only a guard that relays can bound what a body asks for: corral guard UPSTREAM",
    "bounds.max_body": "bound bodies at the proxy: client_max_body_size in nginx, request_body in Caddy",
    "bounds.max_depth": "only a guard that relays can bound what is in a body: corral guard UPSTREAM",
    "price": "costs are counted where usage is seen; only a guard that relays sees it: corral guard UPSTREAM",
    "budgets": "budgets are kept by a guard that relays: corral guard UPSTREAM",
    "bounds.total_timeout": "bound how long a request takes at the proxy",
}
"""What to do instead of a setting that does not apply, by section or setting."""

_RELAY = "only a guard that relays can do that: corral guard UPSTREAM"

NOT_ENFORCED = (
    "Not enforced, since only heads are seen here: bodies and prompts, the most tokens, models, quotas of anything but "
    "requests, places and the queue. Bound bodies at the proxy, and what runs at once at the server."
)


def for_authz(policy: Policy, written: Collection[str] = ()) -> Policy:
    """Make `policy` ready to answer proxies: this machine's, where it names none.

    `written` names the settings that somebody wrote, as "section.name", also those that were given their default.

    Raises:
        PolicyError: settings that cannot apply are written; the message names each, and what to do instead.

    """
    wrong = [*_not_applying(policy, written), *_needing_bodies(policy)]
    if not policy.identity.trusted_proxies:
        if not parse_endpoint(policy.listen.address).is_loopback:
            wrong.append(
                f"identity.trusted_proxies: none is named, so that only this machine is answered, but "
                f"{policy.listen.address} is for others too; name the proxies' addresses, or listen on loopback."
            )
        policy = replace(policy, identity=replace(policy.identity, trusted_proxies=LOOPBACK))
    if wrong:
        raise PolicyError("With --authz only heads are seen, so this cannot apply:\n" + "\n".join(wrong))
    return policy


def settings(policy: Policy) -> Iterator[tuple[str, bool]]:
    """List all settings outside lists, as "section.name", and whether each differs from its default."""
    default = Policy()
    for section in fields(Policy):
        here, before = getattr(policy, section.name), getattr(default, section.name)
        if not is_dataclass(here) or isinstance(here, Quota):
            yield section.name, here != before
            continue
        for inner in fields(here):
            yield f"{section.name}.{inner.name}", getattr(here, inner.name) != getattr(before, inner.name)


def advice(name: str) -> str:
    """Say what to do instead of the setting `name`."""
    return INSTEAD.get(name) or INSTEAD.get(name.partition(".")[0]) or _RELAY


def _not_applying(policy: Policy, written: Collection[str]) -> Iterator[str]:
    for name, differs in settings(policy):
        applies = name in APPLIES or name.partition(".")[0] in APPLIES
        if not applies and (differs or name in written):
            yield f"{name}: remove it; {advice(name)}."


def _needing_bodies(policy: Policy) -> Iterator[str]:
    for index, limit in enumerate(policy.limits):
        yield from _needs_body(f"limits[{index}]", limit)
    for name, plan in policy.plan.items():
        for index, limit in enumerate(plan.limits):
            yield from _needs_body(f"plan.{name}.limits[{index}]", limit)
        for inner in fields(plan):
            if inner.name != "limits" and getattr(plan, inner.name) != inner.default:
                yield f"plan.{name}.{inner.name}: remove it; {_RELAY}."


def _needs_body(where: str, limit: LimitRule) -> Iterator[str]:
    """Name what of a limit cannot be counted by the head: what a body asks for, and what its end tells."""
    if limit.quota.unit != "requests":
        yield (
            f'{where}.quota: the limit "{limit.name}" counts {limit.quota.unit}, which only a guard that relays knows; '
            "count requests, or relay: corral guard UPSTREAM."
        )
    elif limit.needs_body:
        yield f'{where}.per: the limit "{limit.name}" counts models, which stand in bodies; count routes, or by key.'


def explain_authz(policy: Policy) -> list[str]:
    """Say what a guard that answers proxies will do, a sentence each, and what it cannot."""
    tls = "with TLS" if policy.listen.tls_certificate else "without TLS"
    proxies = ", ".join(policy.identity.trusted_proxies)
    return [
        f"Listens on {policy.listen.address}, {tls}, and tells proxies which requests may go on; it relays nothing.",
        f"Answers {proxies}, and nobody else; believes their {policy.identity.header}.",
        *in_shadow(policy),
        *who_is_let_in(policy),
        *map(describe_limit, policy.limits),
        *(() if policy.limits else ("No request quotas apply.",)),
        *describe_plans(policy),
        NOT_ENFORCED,
    ]
