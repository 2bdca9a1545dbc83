"""An empty prompt is generated from."""

from collections.abc import Sequence

from corral.scan.checks.base import Check, refused_unheard
from corral.scan.finding import Finding, Severity
from corral.scan.observation import Observation, Reply
from corral.scan.probes.single import Ask


class EmptyPrompt(Check):
    """Asks for one token to nothing."""

    id = "input.empty"
    title = "Empty prompts are served"
    severity = Severity.LOW
    why = "Work without input is never a user's: it is a probe or a broken client, and it costs the same."
    refs = ("CWE-20",)
    fix_corral = "corral guard http://localhost:8080 (generation.allow_empty_prompt is off)"
    fix_other = "none before the server: proxies do not parse bodies"
    probe = Ask(text="")

    def judge(self, seen: Sequence[Observation]) -> Finding:
        """An answer with status 200 is vulnerable, a 4xx is safe."""
        for observation in seen:
            if observation.reply is Reply.ALLOW:
                return self.vulnerable(observation.told())
            if observation.reply is Reply.REJECT or refused_unheard([observation]):
                return self.safe(observation.told())
        return self.inconclusive(*(observation.told() for observation in seen))
