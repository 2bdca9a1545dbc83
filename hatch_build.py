"""Compile the hot modules with mypyc, where `CORRAL_COMPILE=1` asks for it.

What is compiled is the same Python that runs uncompiled: nothing is written twice, and a platform without a compiled
wheel gets the pure one. The engine's arithmetic, the dialects and the gateway are all that a request passes through.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILED = (
    "corral/dialects/event_stream.py",
    "corral/dialects/forms/chat.py",
    "corral/dialects/forms/completion.py",
    "corral/dialects/forms/fields.py",
    "corral/dialects/forms/inputs.py",
    "corral/dialects/forms/ollama.py",
    "corral/dialects/sanitise.py",
    "corral/dialects/streams.py",
    "corral/dialects/table.py",
    "corral/engine/admission.py",
    "corral/engine/balance.py",
    "corral/engine/circuit.py",
    "corral/engine/calendar.py",
    "corral/engine/clients.py",
    "corral/engine/compute.py",
    "corral/engine/concurrent.py",
    "corral/engine/estimate.py",
    "corral/engine/gcra.py",
    "corral/engine/headroom.py",
    "corral/engine/price.py",
    "corral/engine/tokens.py",
    "corral/engine/window.py",
    "corral/guard/access_log.py",
    "corral/guard/authz/answers.py",
    "corral/guard/authz/connection.py",
    "corral/guard/authz/original.py",
    "corral/guard/body_check.py",
    "corral/guard/caller.py",
    "corral/guard/callers.py",
    "corral/guard/cors.py",
    "corral/guard/gateway/connection.py",
    "corral/guard/gateway/core.py",
    "corral/guard/gateway/exchange.py",
    "corral/guard/gateway/incoming.py",
    "corral/guard/gateway/outbox.py",
    "corral/guard/gateway/probe.py",
    "corral/guard/gateway/reader.py",
    "corral/guard/gateway/settlement.py",
    "corral/guard/gateway/upstream.py",
    "corral/guard/gateway/upstreams.py",
    "corral/guard/identity.py",
    "corral/guard/metrics.py",
    "corral/guard/pipeline.py",
    "corral/guard/quota_headers.py",
    "corral/guard/refusal.py",
    "corral/guard/token_quota.py",
    "corral/guard/traces/context.py",
    "corral/stores/memory.py",
)


class CompileHook(BuildHookInterface):
    """Adds the compiled modules to a wheel."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Name what compiling takes; nothing for a pure wheel."""
        return ["mypy>=1.18", "setuptools>=66", "typing-extensions", *_RUNTIME] if _wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tell the builder which files came of it and that the wheel is for this platform."""
        if not _wanted() or version != "standard":
            return
        folder = Path(tempfile.mkdtemp(prefix="corral-compile-"))
        for built in compile_to(folder, Path(self.root) / "src"):
            build_data["force_include"][str(built)] = str(built.relative_to(folder))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


_RUNTIME = ("httptools", "orjson", "uvloop", "prometheus-client")


def _wanted() -> bool:
    return os.environ.get("CORRAL_COMPILE") == "1"


def compile_to(folder: Path, source: Path) -> list[Path]:
    """Compile the modules below `source` into `folder`; returns the extension modules."""
    from mypyc.build import mypycify  # noqa: PLC0415  # there only where it is wanted
    from setuptools import Distribution  # noqa: PLC0415  # as above
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415  # as above

    before, arguments = Path.cwd(), sys.argv
    os.chdir(source)
    try:
        extensions = mypycify(
            ["--config-file", str(source.parent / "pyproject.toml"), *COMPILED],
            opt_level="3",
            debug_level="0",
            target_dir=str(folder / "c"),
        )
        distribution = Distribution({"name": "corral", "ext_modules": extensions})
        command = build_ext(distribution)
        command.build_lib = str(folder)
        command.build_temp = str(folder / "objects")
        command.ensure_finalized()
        command.run()
    finally:
        os.chdir(before)
        sys.argv = arguments
    return sorted(folder.rglob("*.so")) + sorted(folder.rglob("*.pyd"))
