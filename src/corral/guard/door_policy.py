"""The policy of a guard inside an application: from a file, an object or nothing, and whether keys are asked for."""

import os
from collections.abc import Mapping
from pathlib import Path

from corral.errors import PolicyError
from corral.policy.explain import asks_for_keys
from corral.policy.load import load_policy
from corral.policy.model import Policy
from corral.policy.plans import all_limits
from corral.policy.rules import check

PolicySource = Policy | str | os.PathLike[str] | None
"""A policy, the path of its file, or nothing: the defaults. Files and defaults are changed by CORRAL_* variables."""


def read_policy(source: PolicySource, environ: Mapping[str, str]) -> Policy:
    """Read and check the policy.

    Raises:
        PolicyError: something is wrong with it, or it asks for keys and has none.

    """
    if isinstance(source, Policy):
        policy = source
        for _, message in check(policy):
            raise PolicyError(f"The policy cannot be used: {message}")
    else:
        policy = load_policy(None if source is None else Path(source), environ=environ)
    if policy.cors.origins:
        raise PolicyError("cors.origins is for `corral guard`: in an application, its own CORS middleware does that.")
    for rule in all_limits(policy):
        if rule.exact:
            raise PolicyError(
                f'The limit "{rule.name}" is exact, but a guard inside an application has no server that it could ask '
                "to count a prompt: remove exact = true, so that prompts are estimated, or put a guard in front of the "
                "server: corral guard UPSTREAM."
            )
    configured = policy.keys or policy.credentials.store or policy.jwt.key_settings
    if asks_for_keys(policy) and not configured:
        raise PolicyError(
            "The policy asks for keys, but none is configured: add a [[keys]] entry, a credentials.store or a [jwt], "
            'or write auth = "none" if the application itself says who may come in.'
        )
    return policy


def keyless_on_trust(policy: Policy) -> bool:
    """Tell whether nobody is asked for a key only because nothing was said: then only this machine is let in."""
    return policy.auth == "auto" and not asks_for_keys(policy)
