"""`corral guard`: stand in front of an inference server."""

import os
from typing import Annotated

import typer

from corral.cli import serving
from corral.errors import UsageError

_EPILOG = (
    "Examples: corral guard http://127.0.0.1:8081 --listen 127.0.0.1:8080 · "
    "corral guard --authz --listen 127.0.0.1:8082 (nginx, Traefik, Caddy or Envoy ask there, and relay by themselves)"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("guard", epilog=_EPILOG)(guard)


def guard(
    upstream: Annotated[
        str | None,
        typer.Argument(metavar="UPSTREAM", help="The server: http://host:port or unix:/path.", show_default=False),
    ] = None,
    *,
    authz: Annotated[
        bool,
        typer.Option(
            "--authz",
            help="Relay nothing: tell a proxy which requests may go on (auth_request, forward_auth, ext_authz).",
        ),
    ] = False,
    policy: serving.PolicyFile = None,
    listen: serving.ListenOn = None,
    rate_limit: serving.RateLimit = None,
    rate_window: serving.RateWindow = None,
    max_tokens: serving.MaxTokens = None,
    max_concurrent: serving.MaxConcurrent = None,
    auth: serving.Auth = None,
    admin: serving.AdminOn = None,
    log: serving.LogTo = None,
    log_format: serving.LogFormat = None,
    quiet: serving.Quiet = False,
) -> None:
    """Stand in front of an inference server: authenticate, limit, validate, queue, meter.

    SIGINT and SIGTERM end it once running requests have finished; a second one ends it at once. SIGHUP reads the
    policy anew, as does a change of its file. SIGUSR1 opens the log's file anew.
    """
    if authz and upstream is not None:
        raise UsageError(f"With --authz the proxy relays, so there is no server to name; leave {upstream} out.")
    if not authz and upstream is None and policy is None and "CORRAL_UPSTREAM_URL" not in os.environ:
        raise UsageError("Say which server to guard, as in: corral guard http://127.0.0.1:8081")
    flags = serving.Flags(
        policy=policy,
        listen=listen,
        rate_limit=rate_limit,
        rate_window=rate_window,
        max_tokens=max_tokens,
        max_concurrent=max_concurrent,
        auth=auth,
        admin=admin,
        log=log,
        log_format=log_format,
    )
    raise typer.Exit(serving.run(flags, upstream=upstream, authz=authz, quiet=quiet))
