"""What a request may use, seen while its answer passes, and what it is charged once the answer has ended."""

from corral.dialects.event_stream import EventStream
from corral.dialects.model import Form, Usage
from corral.dialects.streams import last_usage
from corral.guard.caller import Visit
from corral.guard.token_quota import TokenHold, TokenQuota


def watched(visit: Visit, content_type: bytes) -> EventStream | None:
    """Watch the answer to a request that is a stream of events; None where it is not what the route's streams are."""
    form, asked = visit.route.form, visit.asked
    if form is None or form.stream is None or not content_type.startswith(form.stream.media_type):
        return None
    answers = 1 if asked is None else asked.choices
    return EventStream(form.stream, visit.cap * answers, answers)


def check_prompt(quota: TokenQuota | None, held: TokenHold | None, events: EventStream, now: float) -> None:
    """Hold what the prompt has beyond its estimate, if its first events tell; if that fails, less may be generated."""
    prompt = events.prompt_tokens()
    if held is not None and quota is not None and prompt is not None:
        left = quota.hold_prompt(held, prompt, now)
        if left < held.reserved.output:
            events.allow(left)


def settle_tokens(
    quota: TokenQuota,
    held: TokenHold,
    usage: Usage | None,
    events: EventStream | None,
    now: float,
    *,
    untouched: bool,
    partly: bool,
) -> None:
    """Charge the tokens that were used: none where the server left the request `untouched`, or refused it itself.

    Of an answer of which only a part was seen (`partly`), the server may have generated more than it told. What has
    passed as `events` is charged in any case, even where it is more than was reserved.
    """
    if untouched:
        quota.release(held, now)
        return
    if partly and usage is not None:
        usage = Usage(usage.prompt_tokens, None, usage.compute_ms)
    if events is not None and (usage is None or usage.completion_tokens is None):
        counted = events.count()
        if counted > held.reserved.output:
            usage = with_counted(usage, counted)
    quota.settle(held, usage, now)


def usage_of(form: Form, events: EventStream) -> Usage | None:
    """Read the usage that a stream reports: at its end, and of its prompt, by some servers, at its beginning alone."""
    usage = last_usage(form, events.tail())
    if usage is not None and usage.prompt_tokens is not None:
        return usage
    prompt = events.prompt_tokens()
    if prompt is None:
        return usage
    return Usage(prompt, None, None) if usage is None else Usage(prompt, usage.completion_tokens, usage.compute_ms)


def with_counted(usage: Usage | None, tokens: int) -> Usage:
    """Say what was used, with the tokens of the answer as they were counted when they passed."""
    return Usage(None, tokens, None) if usage is None else Usage(usage.prompt_tokens, tokens, usage.compute_ms)
