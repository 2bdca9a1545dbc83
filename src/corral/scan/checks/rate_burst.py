"""A burst from one client is never refused."""

from collections.abc import Sequence

from corral.scan.checks.base import Check, answered
from corral.scan.finding import Finding, Severity
from corral.scan.observation import Observation, Reply
from corral.scan.probes.many import Burst


class NoRateLimit(Check):
    """Sends fifty requests for one token each, as fast as ten connections can."""

    id = "rate.burst"
    title = "No rate limit"
    severity = Severity.HIGH
    why = "One client with a loop takes every slot of the server from everybody else, for as long as it likes."
    refs = ("OWASP API4:2023", "OWASP LLM10:2025", "CWE-770", "CWE-799")
    fix_corral = "{guard} --rate-limit 30 --rate-window 60"
    fix_other = (
        "nginx: limit_req_zone $binary_remote_addr zone=llm:10m rate=30r/m; limit_req zone=llm; limit_req_status 429"
    )
    probe = Burst(requests=50)

    def judge(self, seen: Sequence[Observation]) -> Finding:
        """One refusal (429, 529, 503 with Retry-After, or a connection cut after others were served) is a limit.

        Nothing but 503 is a server that does not serve, and no limit.
        """
        heard = answered(seen)
        total = len(seen)
        denied = [observation for observation in heard if observation.reply is Reply.DENY]
        served = sum(observation.reply is Reply.ALLOW for observation in heard)
        cut = sum(observation.status is None and observation.connected for observation in seen)
        if denied and all(observation.status == 503 for observation in heard):
            return self.inconclusive(f"{len(denied)} of {total} rapid requests were answered with 503, none was served")
        if denied:
            first = seen.index(denied[0])
            return self.safe(
                f"{len(denied)} of {total} rapid requests were refused with {denied[0].status}, "
                f"the first after {first}; {served} were served"
            )
        if served and cut > total // 4:
            return self.safe(f"{cut} of {total} rapid requests were cut off; {served} were served")
        if served < 40:
            return self.inconclusive(f"only {served} of {total} rapid requests were served, and none was refused")
        longest = max(observation.seconds for observation in heard)
        return self.vulnerable(
            f"{served} of {total} rapid requests were served, none refused (the slowest in {longest:.2f} s)"
        )
