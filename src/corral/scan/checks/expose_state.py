"""The server's state can be read by anybody."""

from collections.abc import Sequence

from corral.scan.checks.base import Check, answered
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
    fix_corral = "corral guard http://localhost:8080 (state routes need an admin key)"
    fix_other = "llama-server --no-slots; nginx: location ~ ^/(slots|props|metrics) { deny all; }"
    probe = Look(paths=("/slots", "/props", "/metrics"))

    def judge(self, seen: Sequence[Observation]) -> Finding:
        """A 200 is vulnerable; one that shows prompts is worse."""
        heard = answered(seen)
        exposed = [observation for observation in heard if observation.reply is Reply.ALLOW]
        if exposed:
            prompts = any('"prompt":"' in observation.body.replace(" ", "") for observation in exposed)
            said = [observation.told() for observation in exposed]
            if prompts:
                return self.vulnerable(*said, "prompts of other users are in it", severity=Severity.HIGH)
            return self.vulnerable(*said)
        if len(heard) == len(seen) and heard:
            return self.safe(*(observation.told() for observation in heard))
        return self.inconclusive(*(observation.told() for observation in seen))
