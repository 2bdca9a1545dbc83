"""What is measured: the requests, and what every answer to them must be."""

import json
from dataclasses import dataclass

KEY = "sk-corral-benchmark-7Hq2mVx9TzR4bYwK1nLs8PcD"
"""The credential in every request; the benchmarks make it up, and it opens nothing else."""

PATH = "/v1/chat/completions"

_SYSTEM = "You are the keeper of a lighthouse. Answer in one short sentence, plainly."
_USER = "What did you write down in the book this evening, and was the weather fair?"


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of traffic. `refuses` says that the limit is spent: all answers but a few must be 429."""

    name: str
    title: str
    stream: bool = False
    refuses: bool = False
    varied: bool = False
    unix_upstream: bool = False

    def bodies(self) -> list[str]:
        """List the bodies that are sent in turn: one, or sixteen of different lengths."""
        return [_body("." * extra, stream=self.stream) for extra in (range(16) if self.varied else (1,))]


def _body(tail: str, *, stream: bool) -> str:
    asked: dict[str, object] = {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": _USER + tail},
        ],
        "max_tokens": 64,
        "temperature": 0.7,
        "top_p": 0.95,
        "stream": stream,
    }
    return json.dumps(asked, separators=(",", ":"))


CASES = (
    Case("refused", "Refused: 429 at the limit", refuses=True),
    Case("proxied", "Proxied: a chat completion relayed"),
    Case("sse", "SSE: a stream of 40 events relayed, unbuffered", stream=True, unix_upstream=True),
)
"""What the bars speak of: the same request again and again."""

VARIED = (
    Case("refused-varied", "Refused, sixteen bodies of different lengths in turn", refuses=True, varied=True),
    Case("proxied-varied", "Proxied, sixteen bodies of different lengths in turn", varied=True),
)
"""For information: a head that changes from request to request, so that nothing remembered of the last one helps."""
