"""Refusals in the body that each API's clients expect."""

from collections.abc import Mapping

import orjson

from corral.dialects.model import ErrorStyle, Problem

_PROBLEMS = "https://iana.org/assignments/http-problem-types#"

_INVALID = "invalid_request_error"
_LIMITED = "rate_limit_error"
_AWAY = "unavailable_error"
_REDUCED = "temporary-reduced-capacity"

# kind: (status, OpenAI's type, its code, Anthropic's type, llama.cpp's type, the IETF problem type)
_KINDS: dict[str, tuple[int, str, str, str, str, str]] = {
    "invalid_request": (400, _INVALID, "invalid_request", _INVALID, _INVALID, ""),
    "bad_http": (400, _INVALID, "bad_http", _INVALID, _INVALID, ""),
    "key_in_url": (400, _INVALID, "key_in_url", _INVALID, _INVALID, ""),
    "missing_api_key": (401, _INVALID, "missing_api_key", "authentication_error", "authentication_error", ""),
    "invalid_api_key": (401, _INVALID, "invalid_api_key", "authentication_error", "authentication_error", ""),
    "expired_api_key": (401, _INVALID, "expired_api_key", "authentication_error", "authentication_error", ""),
    "revoked_api_key": (401, _INVALID, "revoked_api_key", "authentication_error", "authentication_error", ""),
    "invalid_token": (401, _INVALID, "invalid_token", "authentication_error", "authentication_error", ""),
    "expired_token": (401, _INVALID, "expired_token", "authentication_error", "authentication_error", ""),
    "forbidden": (403, _INVALID, "forbidden", "permission_error", "permission_error", ""),
    "cancelled": (403, _INVALID, "cancelled", "permission_error", "permission_error", ""),
    "not_found": (404, _INVALID, "not_found", "not_found_error", "not_found_error", ""),
    "method_not_allowed": (405, _INVALID, "method_not_allowed", _INVALID, _INVALID, ""),
    "timeout": (408, _INVALID, "timeout", _INVALID, _INVALID, ""),
    "payload_too_large": (413, _INVALID, "payload_too_large", "request_too_large", _INVALID, ""),
    "unsupported_media_type": (415, _INVALID, "unsupported_media_type", _INVALID, _INVALID, ""),
    "quota_exceeded": (429, "requests", "rate_limit_exceeded", _LIMITED, _LIMITED, "quota-exceeded"),
    "too_many_failed_logins": (429, "requests", "too_many_failed_requests", _LIMITED, _LIMITED, "quota-exceeded"),
    "tokens_exceeded": (429, "tokens", "rate_limit_exceeded", _LIMITED, _LIMITED, "quota-exceeded"),
    "compute_exceeded": (429, "gpu-seconds", "rate_limit_exceeded", _LIMITED, _LIMITED, "quota-exceeded"),
    "too_many_at_once": (429, "requests", "rate_limit_exceeded", _LIMITED, _LIMITED, "quota-exceeded"),
    "budget_spent": (429, "insufficient_quota", "insufficient_quota", _LIMITED, _LIMITED, "quota-exceeded"),
    "exceeds_quota": (400, "tokens", "exceeds_quota", _INVALID, _INVALID, ""),
    "headers_too_large": (431, _INVALID, "headers_too_large", "request_too_large", _INVALID, ""),
    "upstream_unavailable": (502, "server_error", "upstream_unavailable", "api_error", _AWAY, ""),
    "overloaded": (503, "server_error", "overloaded", "overloaded_error", _AWAY, _REDUCED),
    "draining": (503, "server_error", "draining", "overloaded_error", _AWAY, _REDUCED),
    "keys_unavailable": (503, "server_error", "keys_unavailable", "api_error", _AWAY, _REDUCED),
    "internal": (503, "server_error", "internal", "api_error", "server_error", _REDUCED),
    "upstream_down": (503, "server_error", "upstream_down", "overloaded_error", _AWAY, _REDUCED),
    "upstream_timeout": (504, "server_error", "upstream_timeout", "api_error", _AWAY, ""),
}  # fmt: skip

_OVERLOADS = ("overloaded", "upstream_down")

KINDS = tuple(_KINDS)
"""Every kind of problem that a guard answers with."""


def status_for(kind: str, style: ErrorStyle) -> int:
    """Give the status of `kind`; Anthropic's clients know an overload as 529."""
    if kind in _OVERLOADS and style is ErrorStyle.ANTHROPIC:
        return 529
    return _KINDS[kind][0]


def render(problem: Problem, style: ErrorStyle, *, detail: Mapping[str, object] | None = None) -> bytes:
    """Write `problem` as `style` does, with the members of `detail` beside its own."""
    _, openai_type, openai_code, anthropic_type, llamacpp_type, problem_type = _KINDS[problem.kind]
    error: dict[str, object]
    if style is ErrorStyle.OLLAMA:
        return _as_ollama(problem, problem_type, detail or {})
    if style is ErrorStyle.OPENAI:
        error = {"message": problem.message, "type": openai_type, "param": problem.param, "code": openai_code}
    elif style is ErrorStyle.ANTHROPIC:
        error = {"type": anthropic_type, "message": problem.message}
    else:
        error = {"code": problem.status, "message": problem.message, "type": llamacpp_type}
    if problem_type:
        error["problem"] = _PROBLEMS + problem_type
    error.update(detail or {})
    body: dict[str, object] = {"error": error}
    if style is ErrorStyle.ANTHROPIC:
        body = {"type": "error", "error": error}
    return orjson.dumps(body)


def _as_ollama(problem: Problem, problem_type: str, detail: Mapping[str, object]) -> bytes:
    """Write `problem` as Ollama does: the error is the message itself, so that all else stands beside it."""
    body: dict[str, object] = {"error": problem.message}
    if problem_type:
        body["problem"] = _PROBLEMS + problem_type
    body.update(detail)
    return orjson.dumps(body)
