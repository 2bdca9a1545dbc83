"""Answers come later when others ask too."""

from collections.abc import Sequence

from corral.scan.checks.base import Check, shut_out, told
from corral.scan.finding import Finding, Severity
from corral.scan.observation import Observation, Reply
from corral.scan.probes.many import Load
from corral.scan.statistics import mann_whitney_greater, median

ALPHA = 0.01
RATIO = 2.0
_SECONDS = 0.5
_FEWEST = 3


class Degradation(Check):
    """Compares the time to the first token of one request alone with that of twelve at once."""

    id = "load.degradation"
    title = "Slows down under little load"
    severity = Severity.HIGH
    why = "A handful of requests at once is enough to make every other user wait; nothing refuses or bounds them."
    refs = ("OWASP API4:2023", "CWE-400")
    fix_corral = "{guard} --max-concurrent 4"
    fix_other = "nginx: limit_conn_zone $binary_remote_addr zone=c:10m; limit_conn c 2; limit_conn_status 429"
    probe = Load()

    def judge(self, seen: Sequence[Observation]) -> Finding:
        """Vulnerable if loaded is slower by a stated factor and amount, and a Mann–Whitney test says so at α = 0.01.

        The amount is 500 ms, or twice the time alone where that is less: a tiny model has no 500 ms to lose.
        """
        if shut_out(seen):
            return self.safe("without a key no request is let in, so an outsider can load nothing", *told(seen[:1]))
        refused = [observation for observation in seen if observation.reply in (Reply.DENY, Reply.OVERLOAD)]
        alone = [o.first_byte for o in seen if o.sent == "alone" and o.reply is Reply.ALLOW]
        loaded = [o.first_byte for o in seen if o.sent == "loaded" and o.reply is Reply.ALLOW]
        served = len(alone) + len(loaded)
        if refused and not served:
            return self.inconclusive(f"even one request at a time was refused with {refused[0].status}")
        if refused:
            return self.safe(
                f"load is shed: {len(refused)} requests were refused with {refused[0].status}, {served} served"
            )
        if len(alone) < _FEWEST or len(loaded) < _FEWEST:
            return self.inconclusive(f"{len(alone)} answers alone and {len(loaded)} under load are too few to compare")
        before, after = median(alone), median(loaded)
        p = mann_whitney_greater(loaded, alone)
        least = min(_SECONDS, RATIO * before)
        evidence = (
            f"time to the first byte: median {1000 * before:.0f} ms alone ({len(alone)} requests), "
            f"{1000 * after:.0f} ms with {self.probe.at_once} at once ({len(loaded)} requests)",
            f"one-sided Mann–Whitney p = {p:.2g} (α = {ALPHA}); ratio {after / max(before, 1e-9):.1f} "
            f"(at least {RATIO:g}); "
            f"difference {1000 * (after - before):.0f} ms (at least {1000 * least:.0f} ms)",
        )
        if p < ALPHA and after >= RATIO * before and after - before >= least:
            return self.vulnerable(*evidence)
        return self.safe(*evidence)
