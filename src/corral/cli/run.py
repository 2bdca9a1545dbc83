"""`corral run`: start llama-server where nobody reaches it, and stand in front of it."""

import os
from typing import Annotated

import typer

from corral.cli import serving


def register(app: typer.Typer) -> None:
    """Add the command."""
    example = "Example: corral run --rate-limit 30 -- llama-server --host 0.0.0.0 --port 8080 -m model.gguf"
    app.command("run", epilog=example, context_settings={"allow_interspersed_args": False})(run)


def run(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- llama-server …", help="The server's own command line.", show_default=False),
    ] = None,
    *,
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
    start_timeout: Annotated[
        float, typer.Option("--start-timeout", metavar="SECONDS", min=0.1, help="Longest wait for the model.")
    ] = 600.0,
    quiet: serving.Quiet = False,
) -> None:
    """Start llama-server on a private socket, and guard the host and port that its command line names.

    Its --host, --port, --api-key, --api-key-file, --ssl-cert-file and --ssl-key-file become the guard's, and so do
    --rate-limit, --rate-window and --max-tokens where they stand behind it; Corral's own options win. The server is
    never restarted: when it ends, so does the guard, with its status.
    """
    from corral.guard.launch_arguments import read_arguments  # noqa: PLC0415  # keeps --help fast

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
    launch = read_arguments(command or [], os.environ)
    raise typer.Exit(serving.run(flags, launch=launch, start_timeout=start_timeout, quiet=quiet))
