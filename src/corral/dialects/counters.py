"""How servers count a prompt that they are not to run: which question each takes, and how it answers.

llama-server counts chats, responses and messages on routes beside theirs, which take the same body; a text it turns
into tokens at `/tokenize`. vLLM's `/tokenize` takes a chat or a text, and says how many tokens it has. What these
cannot be asked for is left to the estimate: several prompts at once, and prompts with pictures beside a text.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from corral.dialects.model import Counter

MOST_TOKENS = 10**9
"""No prompt has more: what says so is no count."""

_PER_TOKEN = 8
"""Bytes of a token's number and its comma in JSON, at most; no text has more tokens than bytes, but for a few."""

_CHAT = (
    "model", "messages", "tools", "chat_template", "chat_template_kwargs", "add_generation_prompt",
    "continue_final_message", "add_special_tokens",
)  # fmt: skip


def counts_alike(path: str) -> Counter:
    """Count by a route that takes the request's own body, and answers `input_tokens`."""
    return Counter(path.encode(), _alike, _input_tokens)


def lists_tokens(path: str) -> Counter:
    """Count the tokens that llama-server's `/tokenize` lists for the `prompt` of a body."""
    return Counter(path.encode(), _text, _tokens_listed, _PER_TOKEN)


def vllm_chat(path: str) -> Counter:
    """Count the `messages` of a body as vLLM's `/tokenize` does."""
    return Counter(path.encode(), _vllm_chat, _vllm_count, _PER_TOKEN)


def vllm_text(path: str) -> Counter:
    """Count the `prompt` of a body as vLLM's `/tokenize` does."""
    return Counter(path.encode(), _vllm_text, _vllm_count, _PER_TOKEN)


def _alike(body: bytes) -> bytes:
    return body


def _text(body: bytes) -> bytes | None:
    """Ask as a completion would read it: with what stands before a prompt, and special tokens by their names."""
    prompt = _only(orjson.loads(body).get("prompt"))
    if prompt is None:
        return None
    return orjson.dumps({"content": prompt, "add_special": True, "parse_special": True})


def _only(prompt: Any) -> Any:
    """Find the one prompt of a body: a text, or a list of tokens and texts. None where there are several."""
    if type(prompt) is list and len(prompt) == 1 and type(prompt[0]) is not int:
        prompt = prompt[0]
    if type(prompt) is str:
        return prompt
    plain = type(prompt) is list and all(type(part) in (int, str) for part in prompt)
    return prompt if plain and any(type(part) is int for part in prompt) else None


def _vllm_chat(body: bytes) -> bytes | None:
    value = orjson.loads(body)
    return orjson.dumps({name: value[name] for name in _CHAT if name in value})


def _vllm_text(body: bytes) -> bytes | None:
    value = orjson.loads(body)
    prompt = _only(value.get("prompt"))
    if type(prompt) is not str:
        return None
    special = value.get("add_special_tokens", True)
    asked = {"prompt": prompt, "add_special_tokens": special}
    return orjson.dumps({**asked, "model": value["model"]} if "model" in value else asked)


def _input_tokens(answer: Mapping[str, Any]) -> int | None:
    return _number(answer.get("input_tokens"))


def _vllm_count(answer: Mapping[str, Any]) -> int | None:
    return _number(answer.get("count"))


def _tokens_listed(answer: Mapping[str, Any]) -> int | None:
    tokens = answer.get("tokens")
    return len(tokens) if type(tokens) is list else None


def _number(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None
