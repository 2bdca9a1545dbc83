"""The server's state can be read by anybody."""

from collections.abc import Sequence

from corral.scan.checks.base import Check, answered, told
from corral.scan.finding import Finding, Severity
from corral.scan.observation import Observation, Reply
from corral.scan.probes.single import Look


class ExposedState(Check):
    """Fetches /slots, /props and /metrics without a key."""

    id = "expose.state"
    title = "Server state is public"
    severity = Severity.MEDIUM
    why = "Slots show what others are generating right now; properties show the template and the model's path."
    refs = ("OWASP LLM02:2025", "OWASP LLM07:2025", "CWE-497")
    fix_corral = "{guard}"
    fix_means = "state routes take an admin key"
    fix_other = "llama-server --no-slots; nginx: location ~ ^/(slots|props|metrics) { deny all; }"
    probe = Look(paths=("/slots", "/props", "/metrics"))

    def judge(self, seen: Sequence[Observation]) -> Finding:
        """A 200 is vulnerable; one that shows prompts is worse. Safe takes a word on each route."""
        exposed = [observation for observation in answered(seen) if observation.reply is Reply.ALLOW]
        if exposed:
            prompts = any('"prompt":"' in observation.body.replace(" ", "") for observation in exposed)
            said = told(exposed)
            if prompts:
                return self.vulnerable(*said, "prompts of other users are in it", severity=Severity.HIGH)
            return self.vulnerable(*said)
        if seen and all(observation.reply in (Reply.AUTH, Reply.REJECT) for observation in seen):
            return self.safe(*told(seen))
        return self.inconclusive(*told(seen))
