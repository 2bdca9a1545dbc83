"""llama.cpp's `llama-server`, with its native routes and the OpenAI and Anthropic ones that it serves too."""

from corral.dialects.counters import counts_alike, lists_tokens
from corral.dialects.forms.chat import CHAT, MESSAGES, RESPONSES
from corral.dialects.forms.completion import INFILL, NATIVE, OPENAI
from corral.dialects.forms.inputs import EMBEDDINGS, RERANK, TOKENISE
from corral.dialects.model import ErrorStyle, RouteClass
from corral.dialects.table import TableDialect, route

_OWN = ErrorStyle.LLAMACPP
_ANTHROPIC = ErrorStyle.ANTHROPIC
_TOKENS = lists_tokens("/tokenize")

LLAMACPP = TableDialect(
    "llamacpp",
    (
        route("completion", RouteClass.INFERENCE, "POST", "/completion", "/completions", form=NATIVE, errors=_OWN,
              counter=_TOKENS),
        route("infill", RouteClass.INFERENCE, "POST", "/infill", form=INFILL, errors=_OWN),
        route("text-completion", RouteClass.INFERENCE, "POST", "/v1/completions", form=OPENAI, counter=_TOKENS),
        route("chat", RouteClass.INFERENCE, "POST", "/v1/chat/completions", "/chat/completions", form=CHAT,
              counter=counts_alike("/v1/chat/completions/input_tokens")),
        route("responses", RouteClass.INFERENCE, "POST", "/v1/responses", "/responses", form=RESPONSES,
              counter=counts_alike("/v1/responses/input_tokens")),
        route("messages", RouteClass.INFERENCE, "POST", "/v1/messages", form=MESSAGES, errors=_ANTHROPIC,
              counter=counts_alike("/v1/messages/count_tokens")),
        route("embedding", RouteClass.EMBEDDING, "POST", "/embedding", "/embeddings", form=EMBEDDINGS, errors=_OWN),
        route("embeddings", RouteClass.EMBEDDING, "POST", "/v1/embeddings", form=EMBEDDINGS),
        route("rerank", RouteClass.EMBEDDING, "POST", "/rerank", "/reranking", "/v1/rerank", "/v1/reranking",
              form=RERANK),
        route("tokenise", RouteClass.TOKENISE, "POST", "/tokenize", form=TOKENISE, errors=_OWN),
        route("detokenise", RouteClass.TOKENISE, "POST", "/detokenize", form=TOKENISE, errors=_OWN),
        route("apply-template", RouteClass.TOKENISE, "POST", "/apply-template", form=TOKENISE, errors=_OWN),
        route("count-chat", RouteClass.TOKENISE, "POST", "/v1/chat/completions/input_tokens",
              "/chat/completions/input_tokens", form=TOKENISE),
        route("count-responses", RouteClass.TOKENISE, "POST", "/v1/responses/input_tokens", "/responses/input_tokens",
              form=TOKENISE),
        route("count-messages", RouteClass.TOKENISE, "POST", "/v1/messages/count_tokens", form=TOKENISE,
              errors=_ANTHROPIC),
        route("models", RouteClass.STATIC, "GET", "/v1/models", "/models"),
        route("health", RouteClass.HEALTH, "GET", "/health", "/v1/health", errors=_OWN),
        route("slots", RouteClass.STATE, "GET", "/slots", errors=_OWN),
        route("props", RouteClass.STATE, "GET", "/props", errors=_OWN),
        route("metrics", RouteClass.STATE, "GET", "/metrics", errors=_OWN),
        route("lora-adapters", RouteClass.STATE, "GET", "/lora-adapters", errors=_OWN),
        route("set-props", RouteClass.MANAGEMENT, "POST", "/props", errors=_OWN),
        route("set-lora-adapters", RouteClass.MANAGEMENT, "POST", "/lora-adapters", errors=_OWN),
        route("tools", RouteClass.MANAGEMENT, "GET", "/tools", errors=_OWN),
        route("call-tool", RouteClass.MANAGEMENT, "POST", "/tools", errors=_OWN),
        route("cors-proxy", RouteClass.MANAGEMENT, "GET", "/cors-proxy", errors=_OWN),
        route("cors-proxy-post", RouteClass.MANAGEMENT, "POST", "/cors-proxy", errors=_OWN),
        route("load-model", RouteClass.MANAGEMENT, "POST", "/models/load", errors=_OWN),
        route("unload-model", RouteClass.MANAGEMENT, "POST", "/models/unload", errors=_OWN),
    ),
    slots_path=b"/props",
)  # fmt: skip
