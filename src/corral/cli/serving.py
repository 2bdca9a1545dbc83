"""What `corral guard` and `corral run` share: their options, the policy that follows from them, and what they say."""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from corral.cli.console import prefixed
from corral.errors import PolicyError, UsageError

if TYPE_CHECKING:
    from corral.guard.launch_arguments import Launch
    from corral.policy.model import Policy

DEFAULT_WINDOW = 60.0
"""Seconds that `--rate-limit` counts over where `--rate-window` is not given."""

PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", metavar="FILE", help="The policy to read, as corral.toml.", show_default=False),
]
ListenOn = Annotated[
    str | None, typer.Option("--listen", metavar="HOST:PORT", help="Where the guard answers.", show_default=False)
]
RateLimit = Annotated[
    int | None,
    typer.Option(
        "--rate-limit", metavar="N", min=1, help="Requests of each client in --rate-window.", show_default=False
    ),
]
RateWindow = Annotated[
    float | None,
    typer.Option(
        "--rate-window", metavar="SECONDS", min=0.001, help="What --rate-limit counts over; 60.", show_default=False
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", metavar="N", min=1, help="Most tokens of one answer.", show_default=False),
]
MaxConcurrent = Annotated[
    int | None,
    typer.Option("--max-concurrent", metavar="N", min=1, help="Requests that run at once.", show_default=False),
]
Auth = Annotated[
    Literal["auto", "keys", "none"] | None,
    typer.Option(
        "--auth",
        help="keys: a key is demanded. none: nobody is asked. auto: keys, unless none is configured and only this "
        "machine can reach the guard.",
        show_default=False,
    ),
]
AdminOn = Annotated[
    str | None,
    typer.Option(
        "--admin", metavar="HOST:PORT", help="Where /metrics, /health and the admin API answer.", show_default=False
    ),
]
LogTo = Annotated[
    str | None,
    typer.Option(
        "--log", metavar="FILE", help='One line a request: "-" is standard output, "" none.', show_default=False
    ),
]
LogFormat = Annotated[
    Literal["auto", "json", "text"] | None,
    typer.Option("--log-format", help="auto: text on a terminal, JSON elsewhere.", show_default=False),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors, and a key that had to be made.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The options as given; None is not given."""

    policy: Path | None
    listen: str | None
    rate_limit: int | None
    rate_window: float | None
    max_tokens: int | None
    max_concurrent: int | None
    auth: str | None
    admin: str | None
    log: str | None
    log_format: str | None

    def overrides(self) -> dict[str, tuple[str, object]]:
        """List the settings that the options name: the setting's name, the option's, and its value."""
        named: dict[str, tuple[str, object]] = {
            "listen.address": ("--listen", self.listen),
            "generation.max_tokens": ("--max-tokens", self.max_tokens),
            "concurrency.max_running": ("--max-concurrent", self.max_concurrent),
            "auth": ("--auth", self.auth),
            "admin.listen": ("--admin", self.admin),
            "log.path": ("--log", self.log),
            "log.format": ("--log-format", self.log_format),
        }
        return {key: (flag, value) for key, (flag, value) in named.items() if value is not None}

    def names(self) -> dict[str, str]:
        """Say which option gave a setting its value, for messages."""
        return {key: flag for key, (flag, _) in self.overrides().items()}


def build_policy(
    flags: Flags,
    environ: Mapping[str, str],
    *,
    upstream: str | None = None,
    launch: "Launch | None" = None,
    authz: bool = False,
) -> "Policy":
    """Read the policy that will run; precedence: defaults < file < environment < the server's command line < flags.

    Raises:
        PolicyError: a setting or an option that names one is wrong.
        UsageError: options contradict one another, or a key file cannot be read.

    """
    from corral.guard.itself import refuse_itself  # noqa: PLC0415  # keeps --help fast
    from corral.guard.resolve import read_key_file, with_keys, with_rate_limit  # noqa: PLC0415  # as above
    from corral.policy.authz import for_authz  # noqa: PLC0415  # as above
    from corral.policy.load import load_policy, written_settings  # noqa: PLC0415  # as above
    from corral.policy.rules import check  # noqa: PLC0415  # as above

    named = _launch_overrides(launch) if launch is not None else {}
    if upstream is not None:
        named["upstream.url"] = ("UPSTREAM", _as_url(upstream))
    named |= flags.overrides()
    policy = load_policy(
        flags.policy,
        overrides={key: value for key, (_, value) in named.items()},
        flags={key: flag for key, (flag, _) in named.items()},
        environ=environ,
    )
    if launch is not None and policy.upstreams:
        raise UsageError(
            "corral run guards the server that it starts, but the policy names [[upstreams]]: start those yourself, "
            "and guard them all with corral guard --policy."
        )
    amount, window = flags.rate_limit, flags.rate_window
    if launch is not None:
        amount, window = amount or launch.rate_limit, window or launch.rate_window
        keys = [*launch.api_keys, *(key for path in launch.api_key_files for key in read_key_file(path))]
        policy = with_keys(policy, keys, "api-key")
    if amount is not None:
        policy = with_rate_limit(policy, amount, window or DEFAULT_WINDOW)
    elif window is not None:
        raise UsageError("--rate-window says how long --rate-limit counts: write both, as in --rate-limit 30.")
    for _, message in check(policy):
        raise PolicyError(f"These options do not fit together: {message}")
    if authz:
        return for_authz(policy, {*named, *written_settings(flags.policy, environ)})
    if launch is None:
        refuse_itself(policy)
    return policy


def numbered_file(flags: Flags, launch: "Launch | None") -> Path | None:
    """Name the file whose limits are numbered as the policy's are: none, where --rate-limit stands for some of them."""
    amount = flags.rate_limit or (launch.rate_limit if launch is not None else None)
    return flags.policy if amount is None else None


def _as_url(upstream: str) -> str:
    """Read a server that may be written short, as host:port."""
    if ":/" in upstream:
        return upstream
    host, _, port = upstream.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(
            f"UPSTREAM: {upstream!r} is no server: write a host and a port, as 127.0.0.1:8081, "
            "or http://host:port, or unix:/path/to.sock."
        )
    return f"http://{upstream}"


def mention_unknown_name(policy: "Policy", *, quiet: bool) -> None:
    """Say that a server's name is not known: it may be later, but as likely it is misspelt."""
    from urllib.parse import urlsplit  # noqa: PLC0415  # keeps --help fast

    from corral.guard.itself import addresses_of  # noqa: PLC0415  # as above
    from corral.policy.servers import servers  # noqa: PLC0415  # as above

    for url in (server.url for server in servers(policy).values()):
        host = urlsplit(url).hostname
        if host and url.startswith("http") and not addresses_of(host) and not quiet:
            tell(f"Note: the name {host} (in {url}) is not known; until it is, nothing can be answered there.")


def _launch_overrides(launch: "Launch") -> dict[str, tuple[str, object]]:
    """List the settings that the server's own command line names."""
    from corral.guard.launch_arguments import DEFAULT_HOST, DEFAULT_PORT  # noqa: PLC0415  # keeps --help fast
    from corral.policy.address import Endpoint  # noqa: PLC0415  # as above

    named: dict[str, tuple[str, object]] = {"upstream.dialect": ("llama-server", "llamacpp")}
    if launch.host is not None or launch.port is not None:
        port = DEFAULT_PORT if launch.port is None else launch.port
        named["listen.address"] = ("--host and --port", str(Endpoint(launch.host or DEFAULT_HOST, port)))
    for key, flag, value in (
        ("listen.tls_certificate", "--ssl-cert-file", launch.tls_certificate),
        ("listen.tls_key", "--ssl-key-file", launch.tls_key),
        ("generation.max_tokens", "--max-tokens", launch.max_tokens),
    ):
        if value is not None:
            named[key] = (flag, value)
    return named


def run(
    flags: Flags,
    *,
    upstream: str | None = None,
    launch: "Launch | None" = None,
    authz: bool = False,
    start_timeout: float = 0.0,
    quiet: bool = False,
) -> int:
    """Serve until a signal ends it, and answer the exit status. A key that had to be made is shown here, once.

    Raises:
        PolicyError, UsageError: see `build_policy`.

    """
    import uvloop  # noqa: PLC0415  # keeps --help fast

    from corral.cli.read_again import ReadAgain, show_key  # noqa: PLC0415  # as above
    from corral.cli.resolved import resolve  # noqa: PLC0415  # as above
    from corral.guard.key_store import default_path  # noqa: PLC0415  # as above
    from corral.guard.lifetime import serve  # noqa: PLC0415  # as above
    from corral.guard.reload import Origin  # noqa: PLC0415  # as above

    logging.getLogger().addHandler(_Told())
    written = build_policy(flags, os.environ, upstream=upstream, launch=launch, authz=authz)
    mention_unused_policy(flags, quiet=quiet)
    if launch is not None and not quiet:
        for sentence in address_notes(flags, launch, os.environ, written.listen.address):
            tell(sentence)
    if launch is None and not authz:
        mention_unknown_name(written, quiet=quiet)
    store = default_path(os.environ)
    policy, key = resolve(written, numbered_file(flags, launch), store=store, environ=os.environ, flags=flags.names())

    def say(sentence: str) -> None:
        if not quiet:
            tell(sentence)

    def ready(running: "Policy") -> None:
        if not quiet:
            for sentence in summary(running, launch, authz=authz):
                tell(sentence)
            for sentence in store_notes(running, store):
                tell(sentence)
        if key is not None:
            show_key(key)

    again = ReadAgain(flags, os.environ, upstream=upstream, launch=launch, authz=authz, store=store, key=key)
    origin = Origin(again, again.files, str(flags.policy or "the policy"))
    work = serve(
        policy, origin=origin, launch=launch, authz=authz, start_timeout=start_timeout,
        say=say, complain=tell, ready=ready,
    )  # fmt: skip
    status: int = uvloop.run(work)
    return status


def summary(policy: "Policy", launch: "Launch | None", *, authz: bool = False) -> list[str]:
    """Say what runs: where it listens, whom it lets in, what it limits, and what is unwise about it."""
    from corral.guard.admin.access import has_admin  # noqa: PLC0415  # keeps --help fast
    from corral.policy.authz import explain_authz  # noqa: PLC0415  # as above
    from corral.policy.explain import explain, warnings  # noqa: PLC0415  # as above

    if launch is not None:
        policy = replace(
            policy, upstream=replace(policy.upstream, url=f"{Path(launch.program).name} on a private socket")
        )
    sentences = explain_authz(policy) if authz else explain(policy)
    if policy.admin.listen is not None:
        sentences.append(f"Metrics and health: http://{policy.admin.listen}/metrics and /health.")
        state = "open to admin keys" if has_admin(policy) else "closed, since no admin key is configured"
        sentences.append(f"The admin API there is {state}.")
    notices = launch.notices if launch is not None else ()
    return [*sentences, *(f"Note: {sentence}" for sentence in (*notices, *warnings(policy)))]


def store_notes(policy: "Policy", default: Path) -> list[str]:
    """Say where the key store is not what one may think: there, but not asked; or asked, but not there."""
    followed = policy.credentials.store
    if policy.auth == "none":
        return [f"Nobody is asked for the keys in {default}."] if default.is_file() else []
    if followed and not (policy.keys or policy.jwt.key_settings or Path(followed).is_file()):
        return [f"Nobody can get in yet: `corral keys create --name NAME --store {followed}` makes the first key."]
    return []


def mention_unused_policy(flags: Flags, *, quiet: bool) -> None:
    """Say that a corral.toml lies here which nobody named: a policy is only ever used when it was asked for."""
    if flags.policy is None and not quiet and Path("corral.toml").is_file():
        tell("A corral.toml lies here and is not used; name it with --policy corral.toml.")


def address_notes(flags: Flags, launch: "Launch", environ: Mapping[str, str], used: str) -> list[str]:
    """Say which address wins, where the policy names another than the server's command line."""
    from corral.policy.load import load_policy, written_settings  # noqa: PLC0415  # keeps --help fast

    named_by_server = launch.host is not None or launch.port is not None
    if flags.listen or not named_by_server or "listen.address" not in written_settings(flags.policy, environ):
        return []
    written = load_policy(flags.policy, environ=environ).listen.address
    if written == used:
        return []
    return [
        f"Note: the guard takes the server's own --host and --port, {used}, rather than listen.address, {written}. "
        "Leave those two out, or write --listen, to have another."
    ]


def tell(sentence: str) -> None:
    """Print on standard error, each line as Corral's; where nobody reads it, nothing is wrong."""
    try:
        print(f"corral: {prefixed(sentence)}", file=sys.stderr, flush=True)  # noqa: T201  # this is the command line
    except OSError:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  # until the process ends


class _Told(logging.Handler):
    """Tells what went wrong while the guard runs, as `tell` does."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it, with its traceback where there is one."""
        tell(self.format(record))
