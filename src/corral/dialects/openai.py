"""Any server with OpenAI's API: vLLM, LiteLLM, TGI. Only what that API has is let through."""

from corral.dialects.counters import vllm_chat, vllm_text
from corral.dialects.forms.chat import CHAT, MESSAGES, RESPONSES
from corral.dialects.forms.completion import OPENAI as COMPLETION
from corral.dialects.forms.inputs import EMBEDDINGS, RERANK, TOKENISE
from corral.dialects.model import ErrorStyle, RouteClass
from corral.dialects.table import TableDialect, route

OPENAI = TableDialect(
    "openai",
    (
        route("chat", RouteClass.INFERENCE, "POST", "/v1/chat/completions", form=CHAT, counter=vllm_chat("/tokenize")),
        route("text-completion", RouteClass.INFERENCE, "POST", "/v1/completions", form=COMPLETION,
              counter=vllm_text("/tokenize")),
        route("responses", RouteClass.INFERENCE, "POST", "/v1/responses", form=RESPONSES),
        route("messages", RouteClass.INFERENCE, "POST", "/v1/messages", form=MESSAGES, errors=ErrorStyle.ANTHROPIC),
        route("embeddings", RouteClass.EMBEDDING, "POST", "/v1/embeddings", form=EMBEDDINGS),
        route("rerank", RouteClass.EMBEDDING, "POST", "/v1/rerank", "/rerank", form=RERANK),
        route("tokenise", RouteClass.TOKENISE, "POST", "/tokenize", form=TOKENISE),
        route("detokenise", RouteClass.TOKENISE, "POST", "/detokenize", form=TOKENISE),
        route("models", RouteClass.STATIC, "GET", "/v1/models"),
        route("health", RouteClass.HEALTH, "GET", "/health"),
        route("metrics", RouteClass.STATE, "GET", "/metrics"),
        route("version", RouteClass.STATE, "GET", "/version"),
        *(
            route(f"vllm-{path.strip('/').replace('/', '-').replace('_', '-')}", RouteClass.MANAGEMENT, "POST", path)
            for path in ("/invocations", "/pooling", "/score", "/v1/score", "/pause", "/resume", "/sleep", "/wake_up",
                         "/update_weights", "/collective_rpc", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")
        ),
    ),
)  # fmt: skip
