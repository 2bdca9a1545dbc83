"""What kind of server answers, by signs that cost nothing."""

from dataclasses import dataclass

import orjson

from corral.scan.observation import Observation
from corral.scan.wire import Wire


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The server's kind, the signs that say so, and the model that requests name."""

    name: str
    evidence: tuple[str, ...]
    model: str | None


async def fingerprint(wire: Wire, health: Observation) -> Fingerprint:
    """Look at what `/health` answered, and at `/v1/models`, with the key if there is one."""
    models = await wire.get("/v1/models", authorised=True)
    name, evidence = _judge(health, models)
    return Fingerprint(name, tuple(evidence), _model(models))


def _judge(health: Observation, models: Observation) -> tuple[str, list[str]]:
    for seen in (models, health):
        server = seen.headers.get("server", "")
        if server.startswith("llama.cpp"):
            return "llama-server", [f"Server: {server}"]
        if any(name.startswith("x-litellm") for name in seen.headers):
            return "litellm", ["x-litellm-* headers"]
    if "x-corral-max-tokens" in models.headers or 'realm="corral"' in models.headers.get("www-authenticate", ""):
        return "corral", ['WWW-Authenticate: Bearer realm="corral"']
    if '"owned_by":"llamacpp"' in models.body.replace(" ", ""):
        corral = "x-request-id" in models.headers and "server" not in models.headers
        return ("corral" if corral else "llama-server"), ['/v1/models: "owned_by": "llamacpp"']
    if "Ollama" in health.body:
        return "ollama", ["Ollama is running"]
    if '"owned_by":"vllm"' in models.body.replace(" ", ""):
        return "vllm", ['/v1/models: "owned_by": "vllm"']
    return "unknown", [models.told()]


def _model(models: Observation) -> str | None:
    try:
        data = orjson.loads(models.body)["data"]
        name = data[0]["id"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
        return None
    return name if isinstance(name, str) else None
