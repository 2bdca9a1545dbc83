"""What a policy will do, in words."""

from collections.abc import Iterator

from corral.policy.address import parse_endpoint
from corral.policy.model import ANY_MODEL, DEFAULT_PLACES, Jwt, LimitRule, Plan, Policy
from corral.policy.notation import describe_count, describe_duration, describe_money, describe_quota, describe_size
from corral.policy.plans import all_limits
from corral.policy.servers import ONE_AT_A_TIME, servers
from corral.policy.shadow import ENFORCED
from corral.policy.whose import each


def asks_for_keys(policy: Policy) -> bool:
    """Tell whether the guard will ask for a key: `auth`, with "auto" resolved by what is configured."""
    if policy.auth == "auto":
        behind_proxy = bool(policy.identity.trusted_proxies)
        configured = bool(policy.keys or policy.credentials.store or policy.jwt.key_settings)
        return configured or behind_proxy or not parse_endpoint(policy.listen.address).is_loopback
    return policy.auth == "keys"


def explain(policy: Policy) -> list[str]:
    """Say what the guard will do, a sentence each."""
    return [
        *in_shadow(policy),
        *_doors(policy),
        *_limits(policy),
        *_requests(policy),
        *describe_plans(policy),
        *_traces(policy),
    ]


def in_shadow(policy: Policy) -> Iterator[str]:
    """Say what is only tried out: first of all, since it takes the force from all that follows."""
    if policy.shadow:
        yield (
            "THE WHOLE POLICY IS IN SHADOW: it counts and tells, but no limit, bound of prompts and tokens, model or "
            "queue below refuses or shortens anything."
        )
        yield ENFORCED
        return
    limits = [f'"{limit.name}"' for limit in all_limits(policy) if limit.shadow]
    if limits:
        yield f"In shadow, counting and telling, but refusing nothing: {', '.join(limits)}."


def _doors(policy: Policy) -> Iterator[str]:
    tls = "with TLS" if policy.listen.tls_certificate else "without TLS"
    named = servers(policy)
    urls = " and ".join(server.url for server in named.values())
    yield f"Listens on {policy.listen.address}, {tls}, and guards {urls} ({policy.upstream.dialect})."
    if len(named) > 1:
        yield "Each request goes to the server with the least to do, of those that are well and have a free slot."
    yield from who_is_let_in(policy)
    if policy.cors.origins:
        pages = "any site" if "*" in policy.cors.origins else ", ".join(policy.cors.origins)
        yield f"Pages of {pages} may use it from a browser."
    if policy.identity.trusted_proxies:
        proxies = ", ".join(policy.identity.trusted_proxies)
        yield f"Believes {policy.identity.header} from {proxies}, and from nobody else."


def who_is_let_in(policy: Policy) -> Iterator[str]:
    """Say who gets in, and which routes take an admin key, a sentence each."""
    if not asks_for_keys(policy):
        yield "Asks nobody for a key: whoever can reach the address is let in."
    elif policy.keys:
        names = ", ".join(key.name for key in policy.keys)
        which = f"one of {len(policy.keys)} keys: {names}" if len(policy.keys) > 1 else f"the one key: {names}"
        yield f"Lets in who presents {which}."
    if policy.credentials.store and asks_for_keys(policy):
        yield f"Lets in who presents a key from {policy.credentials.store}; `corral keys` changes it at once."
    elif asks_for_keys(policy) and not policy.keys and not policy.jwt.key_settings:
        yield "Lets in who presents a key; as none is configured, one is made at start and shown once."
    if policy.jwt.key_settings and asks_for_keys(policy):
        yield from _tokens(policy.jwt)
    if asks_for_keys(policy):
        yield f"An address may fail {describe_quota(policy.max_failed_logins).replace('request', 'time')}."
    for name, rule in (("State routes (/slots, /props, /metrics)", policy.routes.state),
                       ("Routes that change the server", policy.routes.management)):  # fmt: skip
        yield f"{name} are open to admin keys only." if rule == "admin" else f"{name} are closed."


def _tokens(jwt: Jwt) -> Iterator[str]:
    where = f"the keys at {jwt.jwks_url}" if jwt.jwks_url else "the key in the policy"
    names = [(jwt.issuer, "from"), (jwt.audience, "for")]
    whose = "".join(f" {word} {name}" for name, word in names if name is not None)
    plan = f" and {jwt.plan_claim} which plan they are on" if jwt.plan_claim else ""
    yield f"Lets in who presents a token{whose}, signed with {where}; {jwt.user_claim} says who they are{plan}."


def describe_limit(limit: LimitRule) -> str:
    """Say what a limit allows, in a sentence."""
    quota = limit.quota
    who, said = each(limit), describe_quota(quota)
    shadow = " In shadow: it counts and tells, and refuses nothing." if limit.shadow else ""
    if quota.unit == "concurrent requests":
        return f'{who} may have {said} (limit "{limit.name}"), running or waiting for a place.{shadow}'
    if quota.period:
        how = f"by the calendar's {quota.period} in UTC"
    elif limit.algorithm == "window":
        how = "counted from the first request; all come back when the time is over"
    elif quota.unit == "cost":
        how = "which comes back evenly"
    else:
        burst = limit.burst if limit.burst is not None else quota.amount
        how = f"at most {burst:,} at once; they come back one by one"
    verb = "make" if quota.unit == "requests" else "spend" if quota.unit == "cost" else "use"
    return f'{who} may {verb} {said} (limit "{limit.name}"), {how}.{shadow}'


def _traces(policy: Policy) -> Iterator[str]:
    telemetry = policy.telemetry
    if telemetry.endpoint is not None:
        chosen = "as trusted proxies say, else " if telemetry.parent == "proxies" else ""
        sent = " The server is sent traceparent." if telemetry.forward else ""
        yield f"Sends traces to {telemetry.endpoint}: {chosen}{telemetry.sample_ratio:.4g} of the requests.{sent}"


def describe_plans(policy: Policy) -> Iterator[str]:
    """Say what the plans allow, a sentence each."""
    for name, plan in policy.plan.items():
        yield from _plan(f'On plan "{name}"', plan)


def _plan(where: str, plan: Plan) -> Iterator[str]:
    for limit in plan.limits:
        sentence = describe_limit(limit)
        yield f"{where}: {sentence[0].lower()}{sentence[1:]}"
    if plan.limits:
        yield f"{where}: of the other limits only those that count many together apply."
    if plan.max_tokens is not None:
        yield f"{where}: an answer has at most {plan.max_tokens:,} tokens."
    if plan.models:
        yield f"{where}: only these models may be asked for: {', '.join(plan.models)}."
    if plan.priority != 1:
        yield f"{where}: priority {plan.priority:g}, where others have 1."


def _limits(policy: Policy) -> Iterator[str]:
    yield from map(describe_limit, policy.limits)
    if all(limit.quota.unit != "requests" or limit.shadow for limit in policy.limits):
        yield "No request quotas apply."
    if any(limit.quota.unit not in ("requests", "concurrent requests") for limit in all_limits(policy)):
        yield (
            "A running request holds what it may use at most; when it ends, it is charged what the server "
            "reports, or all that it held where the server reports nothing."
        )
    exact = [f'"{limit.name}"' for limit in all_limits(policy) if limit.exact]
    if exact:
        yield (
            f"For {', '.join(exact)} the server counts each prompt before it is let in; where it cannot, or not in "
            "time, the prompt is estimated."
        )
    if any(limit.quota.period for limit in all_limits(policy)):
        kept = policy.budgets.store
        yield (
            "What was spent of a day's or month's budget is kept nowhere: a restart forgives it."
            if kept == ""
            else f"What was spent of a day's or month's budget is kept in {kept or 'budgets.db'}, over restarts."
        )
    for model, price in policy.price.items():
        which = "Every other model costs" if model == ANY_MODEL else f"The model {model} costs"
        yield f"{which} {price.input:g} for a million tokens of prompts and {price.output:g} for a million of answers."
    places = policy.concurrency
    yield (
        f"{_running(policy)}; {places.max_waiting:,} may wait up to {describe_duration(places.max_wait)} "
        "for their turn; the next are refused with 503."
    )


def _running(policy: Policy) -> str:
    most = policy.concurrency.max_running
    if most is not None:
        return f"At most {describe_count(most, 'request')} {_verb(most, 'run')} at once"
    slots = [server.slots for server in servers(policy).values()]
    if policy.upstream.dialect == ONE_AT_A_TIME:
        return "One request runs at once on each server, which would interrupt it for another"
    if None not in slots:
        most = sum(filter(None, slots))
        return f"At most {describe_count(most, 'request')} {_verb(most, 'run')} at once"
    if policy.upstream.dialect == "llamacpp":
        return "As many requests run at once as llama-server has slots, one until it says how many"
    return f"At most {DEFAULT_PLACES} requests run at once on each server"


def _requests(policy: Policy) -> Iterator[str]:
    generation = policy.generation
    yield (
        f"An answer has at most {describe_count(generation.max_tokens, 'token')}; a request that asks for more, "
        "or does not say, gets that many."
    )
    body = describe_size(policy.bounds.max_body)
    yield f"A prompt has at most {describe_count(generation.max_prompt, 'character')}, a body at most {body}."
    if generation.grammar:
        yield "Clients may send grammars."


def _verb(number: int, verb: str) -> str:
    return f"{verb}s" if number == 1 else verb


def warnings(policy: Policy) -> list[str]:
    """Say what is allowed but unwise, a sentence each."""
    found = []
    loopback = parse_endpoint(policy.listen.address).is_loopback
    if not asks_for_keys(policy) and not loopback:
        found.append(f'Anybody who can reach {policy.listen.address} may use the model: auth is "none".')
    if asks_for_keys(policy) and not loopback and not policy.listen.tls_certificate:
        found.append("Keys travel in the clear: listen.tls_certificate is not set. Put TLS here or in front.")
    if policy.admin.listen is not None and not parse_endpoint(policy.admin.listen).is_loopback:
        found.append(f"Admin keys travel in the clear to {policy.admin.listen}; put TLS in front of it.")
    if policy.jwt.key_settings and policy.jwt.audience is None:
        found.append("jwt.audience is not set: tokens that were signed for something else may be let in, too.")
    if not policy.limits:
        found.append("No limits are configured: one client can take the server from all others.")
    elif policy.shadow:
        found.append("The whole policy is in shadow: one client can take the server from all others.")
    elif all(limit.shadow for limit in policy.limits):
        found.append("All limits are in shadow: one client can take the server from all others.")
    found += _narrow_limits(policy)
    found += _what_cannot_be_told(policy)
    if policy.generation.grammar:
        found.append("generation.grammar is on: grammars from clients have crashed llama.cpp.")
    if policy.routes.management == "admin":
        found.append("Admin keys can load and change models through the guard (routes.management).")
    return found


def _narrow_limits(policy: Policy) -> Iterator[str]:
    """Name the limits on tokens and costs that let less through at once than one request may hold."""
    general = policy.generation.max_tokens
    places = [(general, limit) for limit in policy.limits]
    places += [(plan.max_tokens or general, limit) for plan in policy.plan.values() for limit in plan.limits]
    for most, limit in places:
        if limit.shadow or policy.shadow:
            continue
        at_once = limit.quota.amount if limit.burst is None else limit.burst
        answers = most * policy.generation.max_choices
        dearest = max((price.output for price in policy.price.values()), default=0.0) * answers  # in millionths
        if limit.quota.unit == "cost" and limit.quota.amount < dearest:
            yield (
                f'Limit "{limit.name}" has {describe_money(limit.quota.amount, limit.quota.currency)}, but the answers '
                f"to one request may cost {describe_money(round(dearest), limit.quota.currency)} (max_tokens × "
                "generation.max_choices): requests that ask for more than the limit has are refused, and those that "
                "name no maximum get less."
            )
        if limit.quota.unit in ("tokens", "output tokens") and at_once < answers:
            yield (
                f'Limit "{limit.name}" lets {at_once:,} {limit.quota.unit} through at once, but the answers to one '
                f"request may have {answers:,} (max_tokens × generation.max_choices): requests that ask for more than "
                "the limit has are refused, and those that name no maximum get less."
            )


def _what_cannot_be_told(policy: Policy) -> Iterator[str]:
    """Name what is counted by what a client claims, or by what its server never says."""
    units = {limit.quota.unit for limit in all_limits(policy)}
    if "gpu-seconds" in units and policy.upstream.dialect not in ("llamacpp", "ollama"):
        yield "Only llama-server and Ollama report computing time: gpu-seconds go by the estimate alone."
    if "cost" in units and len(set(policy.price.values())) > 1 and policy.upstream.dialect == "llamacpp":
        yield (
            "llama-server answers with the one model it has whatever name a request gives, so with several prices "
            "clients choose the lowest: write one price for all."
        )
