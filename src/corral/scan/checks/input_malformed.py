"""Broken requests are the server's fault."""

from collections.abc import Sequence

from corral.scan.checks.base import Check, answered, shut_out, told
from corral.scan.finding import Finding, Severity
from corral.scan.observation import Observation, Reply
from corral.scan.probes.single import Bodies

_TRACES = ("Traceback (most recent call last)", "json.exception", "at java.", "goroutine ", '.py", line')
_SLOW = 4.0


class MalformedInput(Check):
    """Sends six broken bodies. None of them is known to crash a server."""

    id = "input.malformed"
    title = "Malformed input brings server errors"
    severity = Severity.MEDIUM
    why = "A 5xx sends clients into retries, and says that the input reached code that did not expect it."
    refs = ("OWASP API8:2023", "CWE-20", "CWE-755", "CWE-209")
    fix_corral = "{guard}"
    fix_means = "bodies are parsed strictly and written anew"
    fix_other = "none before the server: proxies do not parse bodies"
    probe = Bodies(
        bodies=(
            ("truncated JSON", b'{"messages": [{"role": "user", "content": "hi"'),
            ("no JSON at all", b"hello"),
            ("a list for an object", b"[]"),
            ("messages of the wrong type", b'{"messages": "hi", "max_tokens": 1}'),
            ("a number too large", b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 1e400}'),
            ("a text for a number", b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": "one"}'),
        )
    )  # fmt: skip

    def judge(self, seen: Sequence[Observation]) -> Finding:
        """5xx, a trace in the answer, no answer at all, or a slow one is vulnerable."""
        heard = answered(seen)
        bad = told([o for o in heard if o.reply is Reply.FAULT])
        bad += [
            f"{o.told()}: the answer shows the server's inside"
            for o in heard
            if _shows_inside(o) and o.told() not in bad
        ]
        bad += [o.told() for o in heard if o.seconds > _SLOW and o.told() not in bad]
        if bad:
            return self.vulnerable(*bad)
        if shut_out(heard):
            return self.safe("refused before it was parsed", *told(heard[:2]))
        rejected = sum(observation.reply in (Reply.REJECT, Reply.AUTH) for observation in heard)
        if 2 * rejected >= len(seen) > 0:
            return self.safe(f"{rejected} of {len(seen)} malformed bodies were refused with 4xx, none with 5xx")
        return self.inconclusive(*told(seen))


def _shows_inside(seen: Observation) -> bool:
    return any(trace in seen.body for trace in _TRACES)
