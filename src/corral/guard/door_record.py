"""The record of a request to an application, once it has ended."""

from corral.dialects.model import Usage
from corral.guard.call import Call
from corral.guard.record import Finished
from corral.guard.refusal import Refusal
from corral.guard.shadow import logged


def record(call: Call, ending: str, refusal: Refusal | None, usage: Usage | None, now: float) -> Finished:
    """Put together what is known of `call`; `refusal` is what it was answered with, if the guard answered."""
    visit = call.visit
    prompt, completion, compute = usage if usage is not None else (None, None, None)
    if call.trace is not None:
        asked = None if visit is None else visit.asked
        call.trace.note(
            call.queued_at - call.arrived if call.queued_at else -1.0,
            call.place_at - call.arrived if call.place_at else -1.0,
            None if asked is None else asked.model,
            0 if visit is None else visit.cap,
        )
    standing = None if refusal is None else refusal.standing
    return Finished(
        at=call.wall,
        request_id=call.request_id,
        client="" if call.key is None else call.key.name,
        address=call.address,
        method=call.incoming.method.decode("latin-1"),
        route=refusal.route if refusal is not None else "unknown" if visit is None else visit.route.name,
        status=call.status,
        refused="" if refusal is None else refusal.kind,
        limit="" if standing is None else standing.name,
        stream=visit is not None and visit.asked is not None and visit.asked.stream,
        waited=max(0.0, (call.place_at or now) - call.queued_at) if call.queued_at else 0.0,
        first_byte=max(0.0, call.first_byte - call.arrived) if call.first_byte else 0.0,
        duration=now - call.arrived,
        bytes_in=call.bytes_in,
        bytes_out=0 if call.usage is None else call.usage.sent,
        prompt_tokens=-1 if prompt is None else prompt,
        completion_tokens=-1 if completion is None else completion,
        compute_ms=-1.0 if compute is None else compute,
        ending=ending,
        plan=call.plan or "",
        trace=call.trace,
        shadow=logged(call.shadowed()) if refusal is None or call.queued_at else "",
    )
