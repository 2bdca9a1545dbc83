"""An empty prompt is generated from."""

from collections.abc import Sequence

from corral.scan.checks.base import Check, told
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
    fix_corral = "{guard}"
    fix_means = "generation.allow_empty_prompt is off"
    fix_other = "none before the server: proxies do not parse bodies"
    probe = Ask(text="")

    def judge(self, seen: Sequence[Observation]) -> Finding:
        """An answer with status 200 is vulnerable, a 4xx is safe, but for one that is about the number of requests."""
        for observation in seen:
            if observation.reply is Reply.ALLOW:
                return self.vulnerable(observation.told())
            if observation.reply in (Reply.REJECT, Reply.AUTH):
                return self.safe(observation.told())
        return self.inconclusive(*told(seen))
