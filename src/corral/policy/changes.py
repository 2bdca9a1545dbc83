"""What differs between two policies, by the names of settings; and what cannot change while a guard runs."""

from dataclasses import fields, is_dataclass

from corral.errors import PolicyError
from corral.policy.model import Policy, Quota

NEEDS_RESTART = (
    "listen.address", "upstream.url", "upstream.dialect", "upstreams", "admin.listen", "log.path", "log.format",
)  # fmt: skip
"""Settings that only a start reads: what is bound, opened or connected by them stays so."""

_RESTART_SECTIONS = ("telemetry.", "health.")


def changed(before: Policy, after: Policy) -> tuple[str, ...]:
    """Name each setting that differs, as "section.name"; a list or a table of tables counts as one setting."""
    names: list[str] = []
    for section in fields(Policy):
        old, new = getattr(before, section.name), getattr(after, section.name)
        if old == new:
            continue
        if is_dataclass(old) and not isinstance(old, Quota):
            names += [
                f"{section.name}.{inner.name}"
                for inner in fields(old)
                if getattr(old, inner.name) != getattr(new, inner.name)
            ]
        else:
            names.append(section.name)
    return tuple(names)


class RestartError(PolicyError):
    """A policy changes what only a restart can change."""


def refuse_change(before: Policy, after: Policy) -> None:
    """Make sure that `after` can follow `before` in a guard that runs.

    Raises:
        RestartError: it changes what only a start reads; the message names each such setting.

    """
    names = [name for name in changed(before, after) if name in NEEDS_RESTART or name.startswith(_RESTART_SECTIONS)]
    if (before.listen.tls_certificate is None) != (after.listen.tls_certificate is None):
        names.append("listen.tls_certificate")
    if not names:
        return
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    verb, them = ("has", "it") if len(names) == 1 else ("have", "them")
    raise RestartError(f"{listed} {verb} changed, which takes a restart. Restart the guard, or change {them} back.")
