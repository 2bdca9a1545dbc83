"""LiteLLM's proxy: a master key, one model behind it."""

from pathlib import Path

from benchmarks.cases import KEY, Case
from benchmarks.contestants.contestant import Setup
from benchmarks.contestants.peers import program
from benchmarks.upstream import Upstream

_CONFIG = """\
model_list:
  - model_name: tiny
    litellm_params: {{model: openai/tiny, api_base: "{url}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false, num_retries: 0}}
"""


class LiteLlm:
    """One worker; its limits by key need a database, so it only relays."""

    name = "litellm"
    conditions = (
        "one worker; its master key is demanded, no database, no limits, no retries, no callbacks; proxied only"
    )

    @property
    def missing(self) -> str:
        """Name what is not there."""
        return "" if program("litellm").exists() else "LiteLLM (make bench installs it)"

    def plays(self, case: Case) -> bool:
        """Tell that it takes part where a plain answer is relayed."""
        return case.name == "proxied"

    def set_up(self, case: Case, port: int, upstream: Upstream, folder: Path) -> Setup:
        """Write litellm.yaml. It would fetch a price list at its start: it is told to use the one it brings."""
        del case
        command = (
            "env", "LITELLM_LOCAL_MODEL_COST_MAP=True", "LITELLM_LOG=ERROR", str(program("litellm")),
            "--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1",
        )  # fmt: skip
        return Setup(command, {"litellm.yaml": _CONFIG.format(url=upstream.url, key=KEY)})
