"""A body of any size is read."""

from collections.abc import Sequence

from corral.scan.checks.base import Check, told
from corral.scan.failure import REFUSED, TIMED_OUT
from corral.scan.finding import Finding, Severity
from corral.scan.observation import Observation, Reply
from corral.scan.probes.single import Oversize

_SAYS_NOTHING = (TIMED_OUT, REFUSED)
_ABOUT_NUMBERS = (Reply.DENY, Reply.OVERLOAD)


class OversizeBody(Check):
    """Sends 2 MiB of white space: with its length, and chunked without one."""

    id = "proto.oversize"
    title = "Oversized bodies are read"
    severity = Severity.MEDIUM
    why = "Memory and time go to whoever sends the most; a few connections fill the server with nothing."
    refs = ("OWASP API4:2023", "CWE-770")
    fix_corral = "{guard}"
    fix_means = "bounds.max_body is 1 MiB, chunked or not"
    fix_other = "nginx: client_max_body_size 1m"
    probe = Oversize(size=2 * 2**20)

    def judge(self, seen: Sequence[Observation]) -> Finding:
        """Safe is 413, or any refusal (or cut) before the body was sent whole; all else read the lot.

        A refusal for the number of requests is about no body.
        """
        read = [o for o in seen if o.status != 413 and not o.early]
        if not seen or any(o.status is None and (not o.early or o.error in _SAYS_NOTHING) for o in seen):
            return self.inconclusive(*told(seen))
        if read:
            return self.vulnerable(*(f"{line}, after the whole body" for line in told(read)))
        if any(o.reply in _ABOUT_NUMBERS for o in seen):
            return self.inconclusive(*told(seen))
        return self.safe(*told(seen))
