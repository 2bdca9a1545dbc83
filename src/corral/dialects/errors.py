"""Refusals in the body that each API's clients expect."""

from collections.abc import Mapping

import orjson

from corral.dialects.model import ErrorStyle, Problem

_PROBLEMS = "https://iana.org/assignments/http-problem-types#"

# kind: (status, OpenAI's type, its code, Anthropic's type, llama.cpp's type, the IETF problem type)
_KINDS: dict[str, tuple[int, str, str, str, str, str]] = {
    "invalid_request": (400, "invalid_request_error", "invalid_request", "invalid_request_error", "invalid_request_error", ""),
    "bad_http": (400, "invalid_request_error", "bad_http", "invalid_request_error", "invalid_request_error", ""),
    "missing_api_key": (401, "invalid_request_error", "missing_api_key", "authentication_error", "authentication_error", ""),
    "invalid_api_key": (401, "invalid_request_error", "invalid_api_key", "authentication_error", "authentication_error", ""),
    "forbidden": (403, "invalid_request_error", "forbidden", "permission_error", "permission_error", ""),
    "not_found": (404, "invalid_request_error", "not_found", "not_found_error", "not_found_error", ""),
    "method_not_allowed": (405, "invalid_request_error", "method_not_allowed", "invalid_request_error", "invalid_request_error", ""),
    "timeout": (408, "invalid_request_error", "timeout", "invalid_request_error", "invalid_request_error", ""),
    "payload_too_large": (413, "invalid_request_error", "payload_too_large", "request_too_large", "invalid_request_error", ""),
    "unsupported_media_type": (415, "invalid_request_error", "unsupported_media_type", "invalid_request_error", "invalid_request_error", ""),
    "quota_exceeded": (429, "requests", "rate_limit_exceeded", "rate_limit_error", "rate_limit_error", "quota-exceeded"),
    "too_many_failed_logins": (429, "requests", "too_many_failed_requests", "rate_limit_error", "rate_limit_error", "quota-exceeded"),
    "headers_too_large": (431, "invalid_request_error", "headers_too_large", "request_too_large", "invalid_request_error", ""),
    "upstream_unavailable": (502, "server_error", "upstream_unavailable", "api_error", "unavailable_error", ""),
    "overloaded": (503, "server_error", "overloaded", "overloaded_error", "unavailable_error", "temporary-reduced-capacity"),
    "internal": (503, "server_error", "internal", "api_error", "server_error", "temporary-reduced-capacity"),
    "upstream_timeout": (504, "server_error", "upstream_timeout", "api_error", "unavailable_error", ""),
}  # fmt: skip

KINDS = tuple(_KINDS)
"""Every kind of problem that a guard answers with."""


def status_for(kind: str, style: ErrorStyle) -> int:
    """Give the status of `kind`; Anthropic's clients know an overload as 529."""
    if kind == "overloaded" and style is ErrorStyle.ANTHROPIC:
        return 529
    return _KINDS[kind][0]


def render(problem: Problem, style: ErrorStyle, *, detail: Mapping[str, object] | None = None) -> bytes:
    """Write `problem` as `style` does, with the members of `detail` beside its own."""
    _, openai_type, openai_code, anthropic_type, llamacpp_type, problem_type = _KINDS[problem.kind]
    error: dict[str, object]
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
