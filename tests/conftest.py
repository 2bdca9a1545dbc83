"""What every test may use: a model, and the real llama-server with it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from corral.demo.llama_server import LlamaServer
from corral.demo.tiny_model import write_tiny_llama
from running_guard import start_guard

__all__ = ["start_guard"]

# A busy machine may stop any test for a while: how long an example takes says nothing.
hypothesis.settings.register_profile("corral", deadline=None)
hypothesis.settings.load_profile("corral")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_llama(path)
    return path


@pytest.fixture(scope="session")
def llama_server(tiny_model: Path) -> Iterator[LlamaServer]:
    """The real llama-server, bare, with four slots."""
    with LlamaServer.start(tiny_model, extra=["-np", "4", "-c", "16384", "--slots", "--metrics"]) as server:
        yield server


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
