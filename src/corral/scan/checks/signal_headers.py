"""Answers do not say what quota is left."""

from collections.abc import Sequence

from corral.scan.checks.base import Check
from corral.scan.checks.tokens_unbounded import UnboundedTokens
from corral.scan.finding import Finding, Severity
from corral.scan.observation import Observation, Reply

_NAMES = ("ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-limit-requests")


class NoQuotaHeaders(Check):
    """Looks for RateLimit headers on an answer that was served."""

    id = "signal.headers"
    title = "No rate-limit headers"
    severity = Severity.LOW
    why = "Clients that cannot see their quota run into it, and then retry blindly, which makes every overload worse."
    refs = ("IETF draft-ietf-httpapi-ratelimit-headers",)
    fix_corral = "{guard}"
    fix_means = "it sends RateLimit, RateLimit-Policy, X-RateLimit-* and x-ratelimit-*-requests by itself"
    fix_other = "nginx has no such headers; Envoy: enable_x_ratelimit_headers: DRAFT_VERSION_03"
    probe = UnboundedTokens.probe

    def judge(self, seen: Sequence[Observation]) -> Finding:
        """Any of the headers, in any of their forms, is enough."""
        for observation in seen:
            found = [f"{name}: {value}" for name, value in observation.headers.items() if name in _NAMES]
            if found:
                return self.safe(observation.told(), *found)
        served = [observation for observation in seen if observation.reply is Reply.ALLOW]
        if served:
            return self.vulnerable(served[0].told(), "no RateLimit, RateLimit-Policy or X-RateLimit-* header")
        return self.inconclusive("no request was served, so there was no answer to carry them")
