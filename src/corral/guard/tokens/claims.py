"""What a genuine token says: until when it is valid, for whom it was made, who it is of (RFC 7519, section 4)."""

import math
from collections.abc import Mapping

from corral.guard.credentials import Credential, Rejection
from corral.policy.model import Jwt

USER_PREFIX = "jwt:"
"""What stands before a user's name where it is counted and logged; no key's name can begin so."""

_LONGEST_USER = 200
_LONGEST_PLAN = 64


def read_claims(claims: Mapping[str, object], jwt: Jwt, wall: float) -> Credential | Rejection:
    """Judge the claims at `wall` (seconds since the epoch), and name whom they let in."""
    expires = _seconds(claims.get("exp"))
    if expires is None:
        return _invalid('it has no valid "exp": a token must end')
    if wall >= expires + jwt.leeway:
        return Rejection("expired_token", "The token has expired.")
    if "nbf" in claims:
        begins = _seconds(claims["nbf"])
        if begins is None or wall < begins - jwt.leeway:
            return _invalid("it is not valid yet")
    if jwt.issuer is not None and claims.get("iss") != jwt.issuer:
        return _invalid("another issuer made it")
    if not _is_for_us(claims.get("aud"), jwt.audience, named="aud" in claims):
        return _invalid("it was made for somebody else")
    user = claims.get(jwt.user_claim)
    if type(user) is not str or not 0 < len(user) <= _LONGEST_USER or not user.isprintable() or not user.strip():
        return _invalid(f'its "{jwt.user_claim}" does not say who it is of')
    plan = claims.get(jwt.plan_claim) if jwt.plan_claim is not None else None
    if plan is not None and (type(plan) is not str or not 0 < len(plan) <= _LONGEST_PLAN):
        return Rejection("forbidden", "The token is on a plan that this guard does not have.", counts=False)
    assert plan is None or isinstance(plan, str)
    return Credential(USER_PREFIX + user, user, plan, False, expires + jwt.leeway)


def _seconds(value: object) -> float | None:
    """Read a NumericDate; None where it is none."""
    if type(value) not in (int, float):
        return None
    assert isinstance(value, int | float)
    seconds = float(value)
    return seconds if math.isfinite(seconds) and 0 <= seconds < 2**53 else None


def _is_for_us(audience: object, ours: str | None, *, named: bool) -> bool:
    """Tell whether a token may be used here: we are named, or neither it nor the policy names anybody."""
    if not named:
        return ours is None
    names = audience if type(audience) is list else [audience]
    return ours is not None and ours in names


def _invalid(why: str) -> Rejection:
    return Rejection("invalid_token", f"The token is not valid: {why}.")
