"""What may be done to the keys of a store: make one, replace one, revoke some. Each answers what changed."""

from dataclasses import dataclass

from corral.errors import UsageError
from corral.guard.key_store import KeyStore, StoredKey
from corral.guard.new_key import PREFIX, hash_key, new_key
from corral.policy.model import Policy
from corral.policy.names import is_name

SHOWN = len(PREFIX) + 6
"""How many characters of a key are kept in the clear, for people to know it by: 36 of its 256 bits."""

_LEAST_PREFIX = len(PREFIX) + 3


@dataclass(frozen=True, slots=True)
class Made:
    """A key that was just made. `secret` is the key itself: show it once, keep it nowhere."""

    key: StoredKey
    secret: str


@dataclass(frozen=True, slots=True)
class Rotated:
    """A key, and those it takes the place of, with the time at which each of them ends."""

    made: Made
    replaced: tuple[StoredKey, ...]


class KeyDesk:
    """Changes a store by the rules; `policy` says which plans there are and which names its own keys have."""

    def __init__(self, store: KeyStore, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    def create(self, name: str, now: float, *, plan: str | None, admin: bool, lifetime: float | None) -> Made:
        """Make a key called `name`, good for `lifetime` seconds from `now`; None is for ever.

        Raises:
            UsageError: the name is none, or taken; or the policy has no such plan.

        """
        if not is_name(name) or name.startswith(PREFIX):
            raise UsageError(
                f'"{name[:80]}" cannot name a key: use letters, digits, "-" and "_", 64 at most, and no crl_ in front.'
            )
        if any(key.name.lower() == name.lower() for key in self._policy.keys):
            raise UsageError(f"The policy's [[keys]] has a key called {name} already: choose another name.")
        self._check_plan(plan)
        with self._store.changing():
            if any(key.is_valid(now) for key in self._store.named(name)):
                raise UsageError(
                    f"{name} has a valid key already: `corral keys rotate {name}` replaces it, "
                    f"`corral keys revoke {name}` ends it."
                )
            return self._add(name, now, plan=plan, admin=admin, lifetime=lifetime)

    def rotate(self, name: str, now: float, *, grace: float, lifetime: float | None) -> Rotated:
        """Make a new key for `name`; its valid ones end `grace` seconds from `now`, or before.

        The new key has the newest one's plan and rights, and lives for `lifetime` seconds; None is as long as that one
        was made for.

        Raises:
            UsageError: `name` has no valid key, or its plan is gone from the policy.

        """
        with self._store.changing():
            valid = [key for key in self._store.named(name) if key.is_valid(now)]
            if not valid:
                raise UsageError(f"{name[:80]} has no valid key to replace: `corral keys create` makes one.")
            newest = valid[-1]
            self._check_plan(newest.plan)
            if lifetime is None and newest.expires is not None:
                lifetime = newest.expires - newest.created
            for key in valid:
                self._store.expire(key, now + grace)
            made = self._add(name, now, plan=newest.plan, admin=newest.admin, lifetime=lifetime)
            ids = {key.id for key in valid}
            return Rotated(made, tuple(key for key in self._store.named(name) if key.id in ids))

    def revoke(self, which: str, now: float) -> tuple[StoredKey, ...]:
        """Revoke every valid key called `which`; or the one that begins with it, or is it.

        Raises:
            UsageError: there is no such valid key, or several begin so.

        """
        with self._store.changing():
            chosen = [key for key in self._find(which) if key.is_valid(now)]
            if not chosen:
                raise UsageError("No valid key has that name or begins so: `corral keys list` shows them all.")
            for key in chosen:
                self._store.revoke(key, now)
            ids = {key.id for key in chosen}
            return tuple(key for key in self._store.all() if key.id in ids)

    def _find(self, which: str) -> list[StoredKey]:
        if not which.startswith(PREFIX):
            return self._store.named(which)
        if len(which) > SHOWN:
            whole = self._store.with_digest(bytes.fromhex(hash_key(which)))
            return [whole] if whole is not None else []
        if len(which) < _LEAST_PREFIX:
            raise UsageError(f"Write at least {_LEAST_PREFIX} characters of the key.")
        found = self._store.starting(which)
        if len(found) > 1:
            raise UsageError(f"{len(found)} keys begin so: {', '.join(key.prefix for key in found)}. Write more of it.")
        return found

    def _check_plan(self, plan: str | None) -> None:
        if plan is None or plan in self._policy.plan:
            return
        known = ", ".join(self._policy.plan)
        hint = f"Its plans: {known}." if known else "It has no [plan.NAME] table; name the policy with --policy FILE."
        raise UsageError(f'The policy has no plan "{plan[:80]}". {hint}')

    def _add(self, name: str, now: float, *, plan: str | None, admin: bool, lifetime: float | None) -> Made:
        secret = new_key()
        key = self._store.add(
            name,
            secret[:SHOWN],
            bytes.fromhex(hash_key(secret)),
            created=now,
            plan=plan,
            admin=admin,
            expires=None if lifetime is None else now + lifetime,
        )
        return Made(key, secret)
