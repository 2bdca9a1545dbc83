"""Reading the policy again while a guard runs: as at its start, but for what would more likely be an accident."""

from collections.abc import Mapping
from pathlib import Path

from corral.cli.resolved import resolve
from corral.cli.serving import Flags, build_policy, numbered_file, tell
from corral.errors import PolicyError
from corral.guard.launch_arguments import Launch
from corral.guard.new_key import new_key
from corral.policy.load import LONGEST
from corral.policy.model import Policy


class ReadAgain:
    """Reads the policy as at the start: the same file, environment and options, in the same order.

    `files` are those that are read. A key that had to be made, as `key` was at the start, stays the same.
    """

    def __init__(
        self,
        flags: Flags,
        environ: Mapping[str, str],
        *,
        upstream: str | None,
        launch: Launch | None,
        authz: bool,
        store: Path,
        key: str | None,
    ) -> None:
        self._flags = flags
        self._environ = dict(environ)
        self._upstream = upstream
        self._launch = launch
        self._authz = authz
        self._store = store
        self._key = key
        key_files = launch.api_key_files if launch is not None else ()
        self.files = (*(() if flags.policy is None else (flags.policy,)), *map(Path, key_files))

    def __call__(self, before: Policy) -> Policy:
        """Read the policy that is to follow `before`, with `auth` resolved.

        Raises:
            PolicyError, UsageError: it is wrong, or it is one that an accident would leave.

        """
        refuse_empty(self._flags.policy)
        written = build_policy(
            self._flags, self._environ, upstream=self._upstream, launch=self._launch, authz=self._authz
        )
        policy, made = resolve(
            written, numbered_file(self._flags, self._launch), store=self._store, environ=self._environ,
            flags=self._flags.names(), make_key=self._made_key,
        )  # fmt: skip
        refuse_opening(before, written, policy)
        if made is not None and made != self._key:
            show_key(made)
            self._key = made
        return policy

    def _made_key(self) -> str:
        return self._key or new_key()


def show_key(key: str) -> None:
    """Show a key that was made, which is kept nowhere."""
    tell(f"No key is configured, so one was made. It is shown once and kept nowhere:\n\n    {key}\n")
    tell("Clients send it as `Authorization: Bearer KEY`. To keep one, put its hash in the policy's [[keys]].")


def refuse_empty(path: Path | None) -> None:
    """Refuse a policy file that says nothing, as a writer that was interrupted leaves one, or that has gone.

    Raises:
        PolicyError: it is empty, or not there.

    """
    if path is None:
        return
    try:
        with path.open("rb") as file:
            empty = not file.read(LONGEST).strip()
    except FileNotFoundError:
        raise PolicyError("it is not there any more. Put it back, and it is read again.") from None
    except OSError:
        return  # `build_policy` says what is wrong
    if empty:
        raise PolicyError("it is empty. Write the policy into it; a comment alone means every default.")


def refuse_opening(before: Policy, written: Policy, resolved: Policy) -> None:
    """Refuse to let everybody in where keys were asked for, unless it was written: a lost line must not open a guard.

    Raises:
        PolicyError: `auth = "auto"` would now mean "none".

    """
    if before.auth == "keys" and resolved.auth == "none" and written.auth == "auto":
        raise PolicyError(
            'no key is configured any more, so that everybody would be let in. Write auth = "none" if that is meant, '
            'or auth = "keys" and a key.'
        )
