"""What `[cors]` may not say: origins that no browser sends, and pages that anybody could write."""

import re
from collections.abc import Iterator

from corral.policy.explain import asks_for_keys
from corral.policy.model import Policy

_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?|[a-z][a-z0-9+.-]*-extension://[a-z0-9-]+")
_DEFAULT_PORT = re.compile(r"http://.*:80|https://.*:443")


def cors_is_sane(policy: Policy) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Apply the rules of `[cors]`."""
    cors = policy.cors
    for index, origin in enumerate(cors.origins):
        here = ("cors", "origins", index)
        if origin == "*":
            if len(cors.origins) > 1:
                yield here, '"*" is every origin, so the others say nothing; write "*" alone, or leave it out.'
            if cors.credentials:
                yield here, 'browsers accept no "*" together with cors.credentials; list the origins.'
            if not asks_for_keys(policy):
                yield (
                    here,
                    '"*" is only for guards that ask for keys: without them, every page that a browser on this network '
                    'shows could use the model. List the origins, or write auth = "keys".',
                )
        elif not _ORIGIN.fullmatch(origin):
            yield here, f'"{origin[:100]}" is no origin: write "https://app.example", in lower case, without a path.'
        elif _DEFAULT_PORT.fullmatch(origin):
            yield here, f'browsers leave the usual port out: write "{origin.rpartition(":")[0]}".'
    if cors.credentials and not cors.origins:
        yield ("cors", "credentials"), "this says nothing without cors.origins: list the origins of your pages."
    if cors.max_age < 0:
        yield ("cors", "max_age"), "this must be at least 0."
