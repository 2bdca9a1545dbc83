"""The operator's words, typed: what `corral.toml` may say, what each setting means, and its default.

Every setting stands here once: name, type, default, unit and help. The loader, the commented file that `corral init`
writes, the JSON Schema and the reference page are all read from these classes. The defaults are safe with no file at
all. Precedence: defaults < file < environment < command line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Partition = Literal["client", "address", "prefix", "key", "user", "plan", "model", "route", "everyone", "global"]
Algorithm = Literal["gcra", "window"]
Signature = Literal["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384",
                    "ES512", "EdDSA", "Ed25519"]  # fmt: skip


def setting(default: Any = ..., *, help: str, unit: str = "", factory: Any = None) -> Any:  # noqa: A002
    """Declare a setting: its default, its unit (seconds, bytes, tokens) and one sentence of help."""
    metadata = {"help": help, "unit": unit}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    if default is ...:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Quota:
    """So many units in each window, as `"30/minute"` says it. `amount` ≥ 1; `window` in seconds, > 0.

    `unit` is "requests", "tokens" (a prompt's and its answers' together), "input tokens", "output tokens",
    "concurrent requests" (their window is 0: there is none), "gpu-seconds" or "cost" (its amount is in millionths of
    the `currency`, which "" leaves open). `period` is "day" or "month" where the calendar's in UTC is meant.
    """

    amount: int
    window: float
    unit: str = "requests"
    currency: str = ""
    period: str = ""

    @property
    def counts_tokens(self) -> bool:
        """Tell whether tokens are counted."""
        return self.unit.endswith("tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRule:
    """One `[[limits]]` entry: how many requests whom may make, or how many tokens whom may use."""

    name: str = setting(help="Shown to clients in RateLimit headers and refusals. Letters, digits, - and _.")
    quota: Quota = setting(
        help='How many in how long, as "30/minute", "20000 tokens/hour", "5000 output tokens per 60 seconds", '
        '"600 gpu-seconds/hour", "20 usd/day"; or how many at once, as "4 concurrent requests".'
    )
    per: Partition | tuple[Partition, ...] = setting(
        "client",
        help="Who is counted apart: client (the holder of the key or token, or the address where there is none), "
        "address, prefix (the address's network), key, user, plan, model, route, or everyone (also: global); or "
        'several together, as ["key", "model"].',
    )
    burst: int | None = setting(
        None,
        help="How many may come at once (gcra only); the quota's amount if absent.",
        unit="the quota's unit",
    )
    algorithm: Algorithm = setting(
        "gcra",
        help="gcra gives units back evenly; window counts from a client's first request and gives all back at its end.",
    )
    shadow: bool = setting(
        False,
        help="Count, and tell what it would have refused, in the log, metrics and X-Corral-Shadow; refuse nothing.",
    )
    exact: bool = setting(
        False,
        help="Have the server count each prompt before it is let in, instead of estimating it (tokens, input tokens "
        "and costs).",
    )

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Who is counted apart, as a tuple; "global" is "everyone"."""
        named = self.per if isinstance(self.per, tuple) else (self.per,)
        return tuple("everyone" if part == "global" else part for part in named)

    @property
    def counts_crowds(self) -> bool:
        """Tell whether it counts many callers together, whoever they are, rather than each alone."""
        return not {"client", "address", "prefix", "key", "user"}.intersection(self.partitions)

    @property
    def needs_body(self) -> bool:
        """Tell whether a request's body must be known to count it: for its model, or for what is counted."""
        return self.quota.unit != "requests" or "model" in self.partitions


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One `[[keys]]` entry: a credential, kept as its hash."""

    name: str = setting(help="Who holds the key: shown in logs, metrics and refusals in the key's stead.")
    sha256: str = setting(help='Hex SHA-256 of the key: printf %s "$KEY" | sha256sum')
    admin: bool = setting(False, help="May use the admin API, and read the server's state routes.")
    plan: str | None = setting(None, help="The [plan.NAME] that its holder is on; absent: what everybody may.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """`[credentials]`: where keys are kept that come and go while the guard runs."""

    store: str | None = setting(
        None,
        help='The file that `corral keys` writes; a running guard follows it. "" is none; absent is keys.db in '
        "$XDG_STATE_HOME/corral (~/.local/state/corral), once it is there.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Jwt:
    """`[jwt]`: signed tokens that are let in (RFC 7519), checked as RFC 8725 says. Off unless a key is named."""

    secret: str | None = setting(None, help="The secret that tokens are signed with (HS…), 32 bytes at least.")
    secret_file: str | None = setting(None, help="A file that holds the secret; a line end behind it is none of it.")
    public_key: str | None = setting(None, help="PEM file with the public key that tokens are checked with.")
    jwks_url: str | None = setting(
        None, help="Where the issuer publishes its keys (RFC 7517); https, or http on loopback. Demands the next two."
    )
    issuer: str | None = setting(None, help="What a token's iss must be.")
    audience: str | None = setting(None, help="What must be in a token's aud; absent, tokens with an aud are refused.")
    algorithms: tuple[Signature, ...] = setting(
        (), help="Signature algorithms that are accepted; none: the usual ones of each key's type."
    )
    type: str | None = setting(None, help='What a token\'s typ must be; absent, "JWT", "at+jwt" or no typ at all.')
    user_claim: str = setting("sub", help="The claim that says who it is: counted and logged as jwt:USER.")
    plan_claim: str | None = setting(None, help="The claim that names the [plan.NAME] it is on.")
    leeway: float = setting(30.0, help="How far the issuer's clock may be off.", unit="seconds")
    max_length: int = setting(8 * 1024, help="Longest token; longer ones are not even read.", unit="bytes")
    jwks_refresh: float = setting(900.0, help="How often the issuer's keys are fetched anew.", unit="seconds")

    @property
    def key_settings(self) -> tuple[str, ...]:
        """Which of the settings that say where the key comes from are given; none of them is off."""
        names = ("secret", "secret_file", "public_key", "jwks_url")
        return tuple(name for name in names if getattr(self, name) is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One `[plan.NAME]` table: what those on it may do, in the place of what everybody may."""

    limits: tuple[LimitRule, ...] = setting(
        (),
        help="Limits in the place of all [[limits]] but those that count many together (everyone, a model, a route, a "
        "plan); none: the [[limits]]. Names of their own.",
    )
    priority: float = setting(1.0, help="How much of a busy server they get beside others, who have 1.", unit="weight")
    models: tuple[str, ...] = setting((), help="The models that they may ask for, by name; none: every model.")
    max_tokens: int | None = setting(
        None, help="Most tokens one answer may have, in the place of generation.max_tokens.", unit="tokens"
    )


ANY_MODEL = "*"
"""The name under which [price] has what all other models cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One `[price."MODEL"]` table: what its tokens cost, by the million, in whatever currency the quotas are in."""

    input: float = setting(help="A million tokens of prompts.", unit="price")
    output: float = setting(help="A million tokens of answers.", unit="price")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """`[budgets]`: what was spent of budgets by the day or month, which a restart must not forgive."""

    store: str | None = setting(
        None,
        help='The file that keeps it; one guard uses it. "" is none; absent is budgets.db in $XDG_STATE_HOME/corral '
        "(~/.local/state/corral), where there is such a budget.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """`[listen]`: where the guard answers."""

    address: str = setting("127.0.0.1:8080", help='Host and port, as "127.0.0.1:8080" or "[::1]:8080".')
    tls_certificate: str | None = setting(None, help="PEM file with the certificate chain; turns TLS on.")
    tls_key: str | None = setting(None, help="PEM file with the certificate's private key.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """`[cors]`: which web pages may use the guard from a browser. None, unless their origins are listed."""

    origins: tuple[str, ...] = setting(
        (), help='Origins of the pages, as "https://app.example"; "*" is every page, where keys are demanded.'
    )
    credentials: bool = setting(False, help="Let browsers send what they keep for the guard: Basic passwords, cookies.")
    max_age: float = setting(600.0, help="How long a browser may remember what pages may do.", unit="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """`[upstream]`: the inference server that is guarded; where there are `[[upstreams]]`, what they have in common."""

    url: str = setting("http://127.0.0.1:8081", help='"http://host:port", or "unix:/path/to.sock".')
    dialect: Literal["llamacpp", "openai", "ollama", "llama-cpp-python"] = setting(
        "llamacpp", help="What the server speaks."
    )
    slots: int | None = setting(
        None, help="Requests that the server works on at once; absent: as llama-server says itself.", unit="requests"
    )
    api_key: str | None = setting(None, help="The key that the server itself demands; clients' keys never reach it.")
    connect_timeout: float = setting(5.0, help="Longest wait for a connection to the server.", unit="seconds")
    first_byte_timeout: float = setting(
        300.0, help="Longest wait for the first byte of an answer; of a stream, for its first token.", unit="seconds"
    )
    idle_timeout: float = setting(
        60.0, help="Longest silence of the server within an answer; of a stream, between tokens.", unit="seconds"
    )
    max_connections: int = setting(64, help="Connections to one server at most.")
    max_answer: int = setting(64 * 1024 * 1024, help="Longest answer relayed; a stream is ended well.", unit="bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamServer:
    """One `[[upstreams]]` entry: one of several servers that have the same models; the rest stands in `[upstream]`."""

    name: str = setting(help="What metrics and messages call it. Letters, digits, - and _.")
    url: str = setting(help='"http://host:port", or "unix:/path/to.sock".')
    slots: int | None = setting(
        None, help="Requests that the server works on at once; absent: as llama-server says itself.", unit="requests"
    )
    api_key: str | None = setting(None, help="The key that this server demands; absent: upstream.api_key.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthChecks:
    """`[health]`: how it is found out that a server is away, and that it is back."""

    interval: float = setting(5.0, help="How often each server is asked whether it is well.", unit="seconds")
    timeout: float = setting(5.0, help="Longest wait for that answer.", unit="seconds")
    failures: int = setting(3, help="Failures in a row after which a server gets no more requests.")
    pause: float = setting(1.0, help="How long it is then left alone, the first time.", unit="seconds")
    max_pause: float = setting(10.0, help="How long at most: each time in vain doubles the pause.", unit="seconds")
    path: str | None = setting(
        None, help="What is asked, with GET; absent: as its dialect has it. Any answer below 500 is well."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """`[identity]`: whose address counts."""

    trusted_proxies: tuple[str, ...] = setting(
        (),
        help="Networks of the proxies in front, as 10.0.0.0/8. Only from them is the header below believed.",
    )
    header: Literal["x-forwarded-for", "forwarded"] = setting(
        "x-forwarded-for", help="Where those proxies write the client's address; the other header is ignored."
    )
    ipv4_prefix: int = setting(24, help='How long an IPv4 network is that a per = "prefix" limit counts.', unit="bits")
    ipv6_prefix: int = setting(48, help="The same for IPv6; one address counts as its /64 anyway.", unit="bits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """`[concurrency]`: how much runs at once, and how much may wait."""

    max_running: int | None = setting(
        None,
        help="Inference requests that run at once, in all; absent: as many as the servers have slots.",
        unit="requests",
    )
    max_waiting: int = setting(64, help="Requests that may wait for a place; the next is refused.", unit="requests")
    max_waiting_bytes: int = setting(16 * 1024 * 1024, help="Bodies that may wait for a place, together.", unit="bytes")
    max_wait: float = setting(30.0, help="Longest wait for a place.", unit="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """`[generation]`: what one request may ask of the model."""

    max_tokens: int = setting(2048, help="Most tokens one answer may have; asking for none means this.", unit="tokens")
    max_prompt: int = setting(32_000, help="Longest prompt, all its parts together.", unit="characters")
    max_choices: int = setting(1, help="Most answers to one request: n × prompts (and best_of).")
    max_inputs: int = setting(64, help="Most inputs of one embedding or rerank request.")
    max_logprobs: int = setting(20, help="Most alternatives a token (n_probs, top_logprobs).")
    max_logit_bias: int = setting(300, help="Most logit_bias entries.")
    grammar: bool = setting(False, help="Let clients send grammars; bad ones have crashed servers.")
    max_schema: int = setting(16 * 1024, help="Longest JSON schema or tool description.", unit="bytes")
    max_schema_depth: int = setting(12, help="Deepest nesting of a JSON schema.")
    allow_empty_prompt: bool = setting(False, help="Generate from an empty or blank prompt.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """`[bounds]`: what one connection may cost."""

    max_head: int = setting(16 * 1024, help="Longest request line and headers together.", unit="bytes")
    max_headers: int = setting(64, help="Most header fields.")
    max_body: int = setting(1024 * 1024, help="Longest body, chunked or not.", unit="bytes")
    max_depth: int = setting(32, help="Deepest nesting of a JSON body.")
    head_timeout: float = setting(10.0, help="Time for the whole head to arrive.", unit="seconds")
    body_timeout: float = setting(20.0, help="Time for the whole body to arrive.", unit="seconds")
    idle_timeout: float = setting(60.0, help="Time a connection may rest between requests.", unit="seconds")
    write_timeout: float = setting(20.0, help="Time a client may refuse to read on.", unit="seconds")
    total_timeout: float = setting(
        900.0, help="Time one request may take in all; a stream is ended well.", unit="seconds"
    )
    shutdown_timeout: float = setting(30.0, help="Time running requests get to finish at shutdown.", unit="seconds")
    max_connections: int = setting(4096, help="Open connections in all.")
    max_connections_per_address: int = setting(
        256, help="Open connections from one address (IPv6: one /64); not from a trusted proxy."
    )
    max_clients: int = setting(100_000, help="Clients counted apart by each limit; further ones share counts.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """`[routes]`: what is let through besides inference."""

    state: Literal["admin", "deny"] = setting("admin", help="/slots, /props, /metrics: admin keys only, or nobody.")
    management: Literal["admin", "deny"] = setting("deny", help="Routes that change the server: admin keys, or nobody.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """`[admin]`: metrics, health and the admin API of the guard itself, on a listener of their own."""

    listen: str | None = setting(
        None, help='Host and port of the listener for metrics and the admin API, as "127.0.0.1:9464"; absent is off.'
    )
    key_sha256: str | None = setting(
        None,
        help="Hex SHA-256 of the key that opens the admin API, as do keys with admin = true; the environment's "
        "CORRAL_ADMIN_KEY is such a key itself. Without any it is closed.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """`[log]`: one line a request, without prompts and without keys."""

    path: str = setting("-", help='File to append to; "-" is standard output, "" is none.')
    format: Literal["auto", "json", "text"] = setting("auto", help="auto: text on a terminal, JSON elsewhere.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """`[telemetry]`: traces of requests, by OpenTelemetry (`corral[otel]`). Off unless `endpoint` is given."""

    endpoint: str | None = setting(
        None,
        help="Where a collector takes traces by OTLP over HTTP, as http://127.0.0.1:4318/v1/traces; absent is off.",
    )
    authorization: str | None = setting(None, help="What the collector wants in the header Authorization.")
    service: str = setting("corral", help="The name that the guard goes by there (service.name).")
    sample_ratio: float = setting(0.1, help="How many of the requests are traced, from 0 to 1.", unit="share")
    parent: Literal["none", "proxies", "everyone"] = setting(
        "none",
        help="Whose traceparent is continued. proxies: identity.trusted_proxies, which also decide what is traced; "
        "everyone: anybody's, traced by sample_ratio all the same.",
    )
    forward: bool = setting(False, help="Send traceparent to the server: vLLM continues it, llama-server does not.")
    max_waiting: int = setting(4096, help="Requests that may wait to be sent; further ones are lost, and counted.")


DEFAULT_PLACES = 4
"""Requests that run at once where nothing says how many."""


DEFAULT_LIMITS = (
    LimitRule(name="client", quota=Quota(30, 60.0), per="client"),
    LimitRule(name="address", quota=Quota(300, 60.0), per="address"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """All that `corral.toml` says."""

    auth: Literal["auto", "keys", "none"] = setting(
        "auto",
        help="keys: a key is demanded. none: nobody is asked. auto: keys, unless none is configured and the guard "
        "listens on loopback only.",
    )
    max_failed_logins: Quota = setting(
        Quota(10, 60.0), help="Wrong or missing keys an address may present before it is refused unheard."
    )
    shadow: bool = setting(
        False,
        help="Try the policy out: what limits, plans' models, prompts' bounds or the queue would refuse is served, and "
        "told as a limit's shadow is. Keys are still demanded.",
    )
    listen: Listen = setting(factory=Listen, help="Where the guard answers.")
    cors: Cors = setting(factory=Cors, help="Which web pages may use the guard from a browser.")
    upstream: Upstream = setting(factory=Upstream, help="The inference server that is guarded.")
    upstreams: tuple[UpstreamServer, ...] = setting(
        (), help="Several servers of the same models instead of one; each request goes to the one with the least to do."
    )
    health: HealthChecks = setting(factory=HealthChecks, help="How it is found out that a server is away.")
    keys: tuple[ApiKey, ...] = setting((), help="Credentials that are let in.")
    credentials: Credentials = setting(factory=Credentials, help="Where keys are kept that come and go.")
    jwt: Jwt = setting(factory=Jwt, help="Signed tokens that are let in.")
    plan: Mapping[str, Plan] = setting(
        factory=dict, help="What those may do who are on a plan: one [plan.NAME] table for each, named by keys."
    )
    price: Mapping[str, Price] = setting(
        factory=dict,
        help='What models cost: one [price."MODEL"] table for each, and [price."*"] for all others. For cost quotas.',
    )
    budgets: Budgets = setting(factory=Budgets, help="Where spent budgets are kept.")
    identity: Identity = setting(factory=Identity, help="Whose address counts.")
    limits: tuple[LimitRule, ...] = setting(
        DEFAULT_LIMITS, help="How many requests whom may make, and tokens use; all must agree."
    )
    concurrency: Concurrency = setting(factory=Concurrency, help="How much runs at once, and how much may wait.")
    generation: Generation = setting(factory=Generation, help="What one request may ask of the model.")
    bounds: Bounds = setting(factory=Bounds, help="What one connection may cost.")
    routes: Routes = setting(factory=Routes, help="What is let through besides inference.")
    admin: Admin = setting(factory=Admin, help="Metrics, health and admin API of the guard itself.")
    log: Log = setting(factory=Log, help="One line a request.")
    telemetry: Telemetry = setting(factory=Telemetry, help="Traces of requests, by OpenTelemetry.")
