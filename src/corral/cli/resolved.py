"""A policy as it would run: who is asked for a key is decided, and the files that it names have been looked at."""

from collections.abc import Callable, Mapping
from pathlib import Path

from corral.errors import PolicyError
from corral.guard.new_key import new_key
from corral.guard.resolve import with_budgets, with_credentials
from corral.guard.tls import load_certificate
from corral.guard.traces.opening import check_traces
from corral.policy.load import source_of
from corral.policy.model import Policy
from corral.policy.rules import check


def resolve(
    policy: Policy,
    path: Path | None,
    *,
    store: Path,
    environ: Mapping[str, str],
    flags: Mapping[str, str] | None = None,
    make_key: Callable[[], str] = new_key,
) -> tuple[Policy, str | None]:
    """Decide what only the machine can say: whether keys are asked for, where they and spent budgets are kept.

    `path` is the file that the policy was read from, `flags` what options gave it, `store` the key store that is used
    where it names none. Answers the policy and the key that had to be made, if any.

    Raises:
        PolicyError: something in the policy does not fit that; the message names the file, the key and the line.

    """
    resolved, key = with_credentials(policy, make_key, store=store)
    resolved = with_budgets(resolved, store.with_name("budgets.db"))
    for place, message in check(resolved):  # once more: now it is known whether keys are asked for
        raise source_of(path, flags=flags, environ=environ).error(place, message)
    return resolved, key


def look_at_files(policy: Policy, path: Path) -> None:
    """Look at what a guard would read at its start: certificate, the key of `[jwt]`, what `[telemetry]` needs.

    Raises:
        PolicyError: it cannot be used.

    """
    try:
        load_certificate(policy.listen)
        check_traces(policy)
        if policy.auth == "keys" and policy.jwt.key_settings and policy.jwt.jwks_url is None:
            _look_at_token_key(policy)
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from error


def _look_at_token_key(policy: Policy) -> None:
    try:
        from corral.guard.tokens.keys import policy_key  # noqa: PLC0415  # joserfc is loaded, and needed, only here
    except ModuleNotFoundError as error:
        raise PolicyError(f"[jwt] needs {error.name}, which is not installed: pip install 'corral[jwt]'") from None
    policy_key(policy.jwt)
