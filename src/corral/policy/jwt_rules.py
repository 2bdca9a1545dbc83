"""What `[jwt]` may not say, though each of its values is well formed."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from corral.policy.address import Endpoint
from corral.policy.model import Jwt, Policy

KeyPath = tuple[str | int, ...]

_MOST_LEEWAY = 300.0
_LONGEST = 64 * 1024


def jwt_is_whole(policy: Policy) -> Iterator[tuple[KeyPath, str]]:
    """Yield the path of each value that is wrong, and what to write instead."""
    jwt = policy.jwt
    named = jwt.key_settings
    if len(named) > 1:
        yield ("jwt", named[1]), f"the key is named already, by jwt.{named[0]}; keep one of them."
    if not named:
        if jwt != Jwt():
            yield (
                ("jwt",),
                "this says how to check tokens, but not with which key: secret_file, public_key or jwks_url.",
            )
        return
    if policy.auth == "none":
        yield ("auth",), 'with auth = "none" nobody would be asked for a token; write auth = "keys".'
    for index, algorithm in enumerate(jwt.algorithms):
        symmetric = algorithm.startswith("HS")
        if symmetric != named[0].startswith("secret"):
            other = "a secret" if symmetric else "a public key"
            yield ("jwt", "algorithms", index), f"{algorithm} works with {other}, and jwt.{named[0]} is none."
    yield from _names(policy, named[0])
    yield from _numbers(jwt)
    if jwt.jwks_url is not None and (wrong := _wrong_url(jwt.jwks_url)):
        yield ("jwt", "jwks_url"), wrong


def _names(policy: Policy, named: str) -> Iterator[tuple[KeyPath, str]]:
    jwt = policy.jwt
    for name in ("issuer", "audience"):
        if not getattr(jwt, name) and (named == "jwks_url" or getattr(jwt, name) is not None):
            yield ("jwt", name), "this is missing: an issuer signs tokens for many, with the same keys."
    for name in ("user_claim", "plan_claim", "type"):
        if getattr(jwt, name) == "":
            yield ("jwt", name), "this is empty; write a name."
    if jwt.plan_claim is not None and not policy.plan:
        yield ("jwt", "plan_claim"), "there is no plan that it could name. Add one, as [plan.pro]."


def _numbers(jwt: Jwt) -> Iterator[tuple[KeyPath, str]]:
    if jwt.leeway > _MOST_LEEWAY:
        yield ("jwt", "leeway"), f"this must be at most {_MOST_LEEWAY:g} seconds."
    if not 128 <= jwt.max_length <= _LONGEST:
        yield ("jwt", "max_length"), f"this must be from 128 to {_LONGEST} bytes."
    if jwt.jwks_refresh < 1:
        yield ("jwt", "jwks_refresh"), "this must be at least 1 second."


def _wrong_url(url: str) -> str | None:
    """Say what is wrong with a URL to fetch keys from; None where nothing is."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.username is not None or parts.fragment:
        return 'this is no URL to fetch keys from: write it as "https://issuer.example/jwks.json".'
    if parts.scheme == "http" and not Endpoint(host, 0).is_loopback:
        return "whoever stands between here and there could send keys of their own: write https."
    return None
