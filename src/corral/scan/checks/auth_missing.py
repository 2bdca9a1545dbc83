"""An inference route answers without a credential."""

from collections.abc import Sequence

from corral.scan.checks.base import Check, answered, told
from corral.scan.finding import Finding, Severity
from corral.scan.observation import Observation, Reply
from corral.scan.probes.single import Ask


class MissingAuthentication(Check):
    """Asks each inference route for one token, without a key."""

    id = "auth.missing"
    title = "Inference without a key"
    severity = Severity.CRITICAL
    why = "Whoever can reach the address uses your GPU, and nobody can tell who it was or shut them out alone."
    refs = ("OWASP API2:2023", "OWASP LLM10:2025", "CWE-306")
    fix_corral = "{guard} --auth keys"
    fix_means = "it makes a key and shows it once; [[keys]] in a policy keep more of them"
    fix_other = "llama-server --api-key-file keys.txt; nginx: auth_request or a map of Authorization to 401"
    probe = Ask(authorised=False, routes=("/v1/chat/completions", "/completion"), phase=0)

    def judge(self, seen: Sequence[Observation]) -> Finding:
        """An answer with status 200 from any route is one too many; safe takes a word on each, and one that asks."""
        open_routes = [observation for observation in answered(seen) if observation.reply is Reply.ALLOW]
        if open_routes:
            return self.vulnerable(*told(open_routes))
        asked = any(observation.reply is Reply.AUTH for observation in seen)
        decided = all(observation.reply in (Reply.AUTH, Reply.REJECT) for observation in seen)
        if asked and decided and len(seen) >= len(self.probe.routes):
            return self.safe(*told(seen))
        return self.inconclusive(*told(seen))
