"""Ollama, with its own routes and the OpenAI and Anthropic ones that it serves too.

What is closed: whatever fetches, makes, sends or deletes models, uses the operator's account, or fetches from the web
(`/api/blobs/…` and `/api/user/keys/…` are not even known). Which models are loaded, and which version it is, only
admins are told; which models there are, everybody who is let in.
"""

from corral.dialects.forms import chat, completion, inputs, ollama
from corral.dialects.forms.ollama import PlainNames
from corral.dialects.model import ErrorStyle, RouteClass
from corral.dialects.table import TableDialect, route

_OWN = ErrorStyle.OLLAMA
_MANAGEMENT = RouteClass.MANAGEMENT
_MANAGE = ollama.MANAGE

OLLAMA = TableDialect(
    "ollama",
    (
        route("ollama-chat", RouteClass.INFERENCE, "POST", "/api/chat", form=ollama.CHAT, errors=_OWN),
        route("generate", RouteClass.INFERENCE, "POST", "/api/generate", form=ollama.GENERATE, errors=_OWN),
        route("embed", RouteClass.EMBEDDING, "POST", "/api/embed", form=ollama.EMBED, errors=_OWN),
        route("ollama-embeddings", RouteClass.EMBEDDING, "POST", "/api/embeddings", form=ollama.EMBEDDINGS,
              errors=_OWN),
        route("chat", RouteClass.INFERENCE, "POST", "/v1/chat/completions", form=PlainNames(chat.CHAT)),
        route("text-completion", RouteClass.INFERENCE, "POST", "/v1/completions", form=PlainNames(completion.OPENAI)),
        route("responses", RouteClass.INFERENCE, "POST", "/v1/responses", form=PlainNames(chat.RESPONSES)),
        route("messages", RouteClass.INFERENCE, "POST", "/v1/messages", form=PlainNames(chat.MESSAGES),
              errors=ErrorStyle.ANTHROPIC),
        route("embeddings", RouteClass.EMBEDDING, "POST", "/v1/embeddings", form=PlainNames(inputs.EMBEDDINGS)),
        route("tags", RouteClass.STATIC, "GET", "/api/tags", errors=_OWN),
        route("show", RouteClass.STATIC, "POST", "/api/show", form=ollama.SHOW, errors=_OWN),
        route("models", RouteClass.STATIC, "GET", "/v1/models"),
        route("health", RouteClass.HEALTH, "GET", "/", "/health", errors=_OWN),
        route("ps", RouteClass.STATE, "GET", "/api/ps", errors=_OWN),
        route("version", RouteClass.STATE, "GET", "/api/version", errors=_OWN),
        route("status", RouteClass.STATE, "GET", "/api/status", errors=_OWN),
        route("delete", _MANAGEMENT, "DELETE", "/api/delete", form=_MANAGE, errors=_OWN),
        *(
            route(path.replace("experimental/", "").replace("_", "-"), _MANAGEMENT, "POST", f"/api/{path}",
                  form=_MANAGE, errors=_OWN)
            for path in ("pull", "push", "create", "copy", "me", "signout", "experimental/web_search",
                         "experimental/web_fetch")
        ),
        route("model-recommendations", _MANAGEMENT, "GET", "/api/experimental/model-recommendations", errors=_OWN),
    ),
    asks_for_keys=False,
)  # fmt: skip
