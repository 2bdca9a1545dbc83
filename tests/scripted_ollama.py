"""Ollama as its API reference describes it: no package registry carries the real server.

It keeps to the documented wire format (docs/api.md, and the handlers of 0.33): NDJSON that streams unless `stream` is
false, counts and durations in nanoseconds in the last object, counts of 0 left out, `{"error": …}` for refusals.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from running_guard import Seen, answer

MODEL = "tiny:latest"
_NOW = "2026-01-02T03:04:05.678901Z"
_DETAILS = {
    "parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "0.2M",
    "quantization_level": "F32",
}  # fmt: skip
_TAG = {"name": MODEL, "model": MODEL, "size": 700_000, "digest": "ab" * 32, "details": _DETAILS}
_ENDLESS = 1_000_000


@dataclass
class ScriptedOllama:
    """A handler for `start_guard`. `tool` is a function that the model calls; `pause` seconds between tokens."""

    tool: dict[str, Any] | None = None
    pause: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        method, path, _ = seen.line.split()
        if method == "GET":
            writer.write(answer(_got(path)) if path != "/" else answer(b"Ollama is running", kind="text/plain"))
            return
        body = seen.json
        self.bodies.append(body)
        if path.startswith("/api/") and body.get("model") not in (MODEL, "tiny"):
            message = f'model "{body.get("model")}" not found, try pulling it first'
            writer.write(answer({"error": message}, "404 Not Found"))
        elif path == "/api/show":
            info = {"general.architecture": "llama", "llama.context_length": 4096}
            shown = {"modelfile": "FROM tiny.gguf", "template": "{{ .Prompt }}", "details": _DETAILS, "model_info": info,
                     "capabilities": ["completion", "tools"], "modified_at": _NOW}  # fmt: skip
            writer.write(answer(shown))
        elif path == "/api/embed":
            texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
            counts = {"total_duration": 9_000_000, "load_duration": 2_000_000, "prompt_eval_count": 3 * len(texts)}
            writer.write(answer({"model": MODEL, "embeddings": [[0.6, 0.8]] * len(texts), **counts}))
        elif path == "/api/embeddings":
            writer.write(answer({"embedding": [0.6, 0.8]}))
        elif path in ("/api/chat", "/api/generate"):
            await self._generate(body, writer, chat=path == "/api/chat")
        else:
            usage = {"prompt_tokens": 3, "completion_tokens": body["max_tokens"]}
            choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "length"}
            writer.write(answer({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}))

    async def _generate(self, body: dict[str, Any], writer: asyncio.StreamWriter, *, chat: bool) -> None:
        asked = body.get("options", {}).get("num_predict", -1)
        tokens = 1 if self.tool else asked if asked > 0 else _ENDLESS

        def part(text: str, *, done: bool) -> dict[str, Any]:
            said: dict[str, Any] = {"model": body["model"], "created_at": _NOW, "done": done}
            if chat:
                said["message"] = {"role": "assistant", "content": text}
                if self.tool and not done:
                    said["message"]["tool_calls"] = [{"function": self.tool}]
            else:
                said["response"] = text
            return said

        last = part("", done=True) | {"done_reason": "stop" if self.tool else "length"}
        if not chat:
            last["context"] = list(range(100_000, 100_000 + tokens))
        last |= {"total_duration": 50_000_000, "load_duration": 1_000_000, "prompt_eval_count": 11,
                 "prompt_eval_duration": 4_000_000, "eval_count": tokens, "eval_duration": 2_500_000}  # fmt: skip
        if body.get("stream") is False:
            whole = part("word " * tokens, done=False)
            writer.write(answer(whole | last | {key: whole[key] for key in ("message", "response") if key in whole},
                                kind="application/json; charset=utf-8"))  # fmt: skip
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(tokens):
            if writer.is_closing():
                raise ConnectionResetError
            writer.write(_chunk(part("word ", done=False)))
            await writer.drain()
            if self.pause:
                await asyncio.sleep(self.pause)
        writer.write(_chunk(last) + b"0\r\n\r\n")


def _chunk(value: dict[str, Any]) -> bytes:
    line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    return b"%x\r\n%b\r\n" % (len(line), line)


def _got(path: str) -> dict[str, Any]:
    if path == "/api/tags":
        return {"models": [_TAG | {"modified_at": _NOW}]}
    if path == "/api/ps":
        return {"models": [_TAG | {"expires_at": _NOW, "size_vram": 0, "context_length": 4096}]}
    if path == "/api/version":
        return {"version": "0.33.0"}
    return {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "library"}]}
