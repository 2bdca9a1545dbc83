"""llama-cpp-python's server: OpenAI's API over one model behind one lock.

By default (`interrupt_requests`) a stream ends early when another request asks for that lock, and every route does, the
list of models too. So each takes a place, and there is one.
"""

from corral.dialects.forms.chat import CHAT
from corral.dialects.forms.completion import OPENAI as COMPLETION
from corral.dialects.forms.inputs import EMBEDDINGS, TOKENISE
from corral.dialects.model import RouteClass
from corral.dialects.table import TableDialect, route

LLAMACPP_PYTHON = TableDialect(
    "llama-cpp-python",
    (
        route("chat", RouteClass.INFERENCE, "POST", "/v1/chat/completions", form=CHAT),
        route("text-completion", RouteClass.INFERENCE, "POST", "/v1/completions", form=COMPLETION),
        route("embeddings", RouteClass.EMBEDDING, "POST", "/v1/embeddings", form=EMBEDDINGS),
        route("tokenise", RouteClass.TOKENISE, "POST", "/tokenize", form=TOKENISE, place=True),
        route("count", RouteClass.TOKENISE, "POST", "/tokenize/count", form=TOKENISE, place=True),
        route("detokenise", RouteClass.TOKENISE, "POST", "/detokenize", form=TOKENISE, place=True),
        route("models", RouteClass.STATIC, "GET", "/v1/models", place=True),
        route("health", RouteClass.HEALTH, "GET", "/health"),
    ),
    slots=1,
)
