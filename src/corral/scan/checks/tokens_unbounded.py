"""A request may generate without end."""

from collections.abc import Sequence

from corral.scan.checks.base import Check, shut_out, told
from corral.scan.finding import Finding, Severity
from corral.scan.observation import Observation, Reply
from corral.scan.probes.single import Generate

_SLACK = 8
"""Events of a stream that bring no token: the role, the end, the usage."""


class UnboundedTokens(Check):
    """Asks for streams with no maximum, and with -1, a million and 2⁶³; stops reading at 300 tokens or 5 seconds."""

    id = "tokens.unbounded"
    title = "Unbounded generation"
    severity = Severity.HIGH
    why = "One request holds a slot until the context is full, or for ever: a few of them are a denial of service."
    refs = ("OWASP LLM10:2025", "OWASP API4:2023", "CWE-1284")
    fix_corral = "{guard} --max-tokens 2048"
    fix_other = "no proxy can do it without reading bodies; llama-server's -n is a default, not a limit"
    probe = Generate(maxima=(None, -1, 10**6, 2**63))

    def judge(self, seen: Sequence[Observation]) -> Finding:
        """Still generating where the probe stopped reading is unbounded.

        A limit that the answer declares in X-Corral-Max-Tokens is a claim: it is read to its end where that can be
        done, and what passes it is vulnerable all the same.
        """
        if shut_out(seen):
            return self.safe("without a key nothing is generated", *told(seen[:1]))
        judged = [_one(observation, self.probe.most) for observation in seen if observation.reply is not Reply.DENY]
        unbounded = [text for verdict, text in judged if verdict is False]
        if unbounded:
            return self.vulnerable(*unbounded)
        if len(judged) == len(seen) and judged and all(verdict is True for verdict, _ in judged):
            return self.safe(*(text for _, text in judged))
        return self.inconclusive(*(text for _, text in judged), *told([o for o in seen if o.reply is Reply.DENY]))


def _one(seen: Observation, most: int) -> tuple[bool | None, str]:
    """Judge one stream: True is bounded, False unbounded, None could not be told."""
    if seen.reply in (Reply.REJECT, Reply.AUTH):
        return True, f"{seen.told()}: refused"
    if seen.reply is not Reply.ALLOW:
        return None, seen.told()
    declared = seen.headers.get("x-corral-max-tokens", "")
    limit = int(declared) if declared.isdecimal() else None
    if seen.ended:
        if limit is not None and seen.events > limit + _SLACK:
            return False, f"{seen.sent}: {seen.events} tokens came, though the answer declares a limit of {limit}"
        return True, f"{seen.sent}: ended by itself after {seen.events} tokens in {seen.seconds:.1f} s"
    if limit is not None and seen.events <= limit + _SLACK:
        return None, f"{seen.sent}: declares a limit of {limit}; {seen.events} tokens came in {seen.seconds:.1f} s"
    if limit is not None:
        return False, f"{seen.sent}: {seen.events} tokens came, though the answer declares a limit of {limit}"
    if seen.events > most or seen.seconds >= 5.0:
        return False, f"{seen.sent}: still generating after {seen.events} tokens in {seen.seconds:.1f} s"
    return None, f"{seen.sent}: broke off after {seen.events} tokens"
