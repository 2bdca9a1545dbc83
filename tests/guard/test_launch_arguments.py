import pytest

from corral.errors import UsageError
from corral.guard.launch_arguments import Launch, read_arguments


def read(line: str, environ: dict[str, str] | None = None) -> Launch:
    return read_arguments(line.split(), environ or {})


def test_host_and_port_become_the_guards_and_the_rest_stays_as_written() -> None:
    launch = read("./llama-server --host 0.0.0.0 --port 8080 -m ./a.gguf -ngl 99 --timeout 60")
    assert (launch.host, launch.port) == ("0.0.0.0", 8080)
    assert launch.program == "./llama-server"
    assert launch.arguments == ("-m", "./a.gguf", "-ngl", "99", "--timeout", "60")
    assert launch.command("/run/x/s.sock") == [
        "./llama-server", "-m", "./a.gguf", "-ngl", "99", "--timeout", "60", "--host", "/run/x/s.sock",
    ]  # fmt: skip


def test_the_seed_command_line_means_what_its_article_says() -> None:
    launch = read(
        "./llama-server --host 0.0.0.0 --port 8080 --model ./models/llama-2-7b-chat.gguf "
        "--max-tokens 2048 --rate-limit 30 --rate-window 60"
    )
    assert (launch.max_tokens, launch.rate_limit, launch.rate_window) == (2048, 30, 60.0)
    assert launch.arguments == ("--model", "./models/llama-2-7b-chat.gguf")


@pytest.mark.parametrize("spelling", ["--port 99", "--port=99", "--port 1 --port 99"])
def test_a_port_may_be_spelled_in_several_ways(spelling: str) -> None:
    launch = read(f"llama-server {spelling} -m a.gguf")
    assert launch.port == 99
    assert launch.arguments == ("-m", "a.gguf")


def test_nothing_named_is_nothing_taken() -> None:
    launch = read("llama-server -m a.gguf")
    assert (launch.host, launch.port, launch.api_keys, launch.api_key_files) == (None, None, (), ())
    assert (launch.rate_limit, launch.rate_window, launch.max_tokens) == (None, None, None)


def test_keys_are_taken_from_the_server() -> None:
    launch = read("llama-server --api-key one,two --api_key three --api-key-file keys.txt -m a.gguf")
    assert launch.api_keys == ("one", "two", "three")
    assert launch.api_key_files == ("keys.txt",)
    assert launch.arguments == ("-m", "a.gguf")


def test_certificates_become_the_guards() -> None:
    launch = read("llama-server --ssl-key-file k.pem --ssl-cert-file c.pem -m a.gguf")
    assert (launch.tls_key, launch.tls_certificate) == ("k.pem", "c.pem")
    assert launch.arguments == ("-m", "a.gguf")


def test_the_environment_is_taken_over_and_withheld_from_the_child() -> None:
    environ = {
        "LLAMA_ARG_HOST": "10.0.0.1", "LLAMA_ARG_PORT": "81", "LLAMA_API_KEY": "secret", "PATH": "/bin",
        "LLAMA_ARG_API_KEY_FILE": "k", "LLAMA_ARG_SSL_KEY_FILE": "kp", "LLAMA_ARG_SSL_CERT_FILE": "cp",
    }  # fmt: skip
    launch = read("llama-server -m a.gguf", environ)
    assert (launch.host, launch.port, launch.api_keys) == ("10.0.0.1", 81, ("secret",))
    assert (launch.api_key_files, launch.tls_key, launch.tls_certificate) == (("k",), "kp", "cp")
    assert launch.environ == {"PATH": "/bin", "LLAMA_ARG_CORS_ORIGINS": "localhost"}
    assert "LLAMA_ARG_HOST" in environ


def test_the_command_line_wins_over_the_environment() -> None:
    launch = read("llama-server --port 82 -m a.gguf", {"LLAMA_ARG_PORT": "81"})
    assert launch.port == 82
    assert "LLAMA_ARG_PORT" not in launch.environ


def test_any_origin_is_allowed_only_where_the_operator_wrote_so() -> None:
    by_option = read("llama-server --cors-origins * -m a.gguf")
    assert "LLAMA_ARG_CORS_ORIGINS" not in by_option.environ
    assert by_option.arguments == ("--cors-origins", "*", "-m", "a.gguf")
    by_variable = read("llama-server -m a.gguf", {"LLAMA_ARG_CORS_ORIGINS": "*"})
    assert by_variable.environ["LLAMA_ARG_CORS_ORIGINS"] == "*"


@pytest.mark.parametrize(
    "option", ["--tools all", "--agent", "-ag", "--ui-mcp-proxy", "--mcp_servers_json {}", "--props", "-n 16"]
)
def test_what_is_dangerous_is_kept_and_said(option: str) -> None:
    launch = read(f"llama-server {option} -m a.gguf")
    assert len(launch.notices) == 1
    assert option.split(maxsplit=1)[0].replace("_", "-") in launch.notices[0]
    assert launch.arguments == (*option.split(), "-m", "a.gguf")


def test_what_is_dangerous_is_said_of_the_environment_too() -> None:
    assert "LLAMA_ARG_TOOLS" in read("llama-server -m a", {"LLAMA_ARG_TOOLS": "all"}).notices[0]
    assert read("llama-server -m a", {"LLAMA_ARG_AGENT": "0"}).notices == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "Say which server"),
        ("python -m vllm.entrypoints.openai.api_server", "corral guard"),
        ("ollama serve", "'ollama'"),
        ("llama-server --port", "--port needs a value"),
        ("llama-server --port=", "--port needs a value"),
        ("llama-server --port abc", "--port abc"),
        ("llama-server --port 65536", "65535"),
        ("llama-server --port ²", "--port"),
        ("llama-server --rate-limit 0", "--rate-limit 0"),
        ("llama-server --rate-limit -5", "--rate-limit -5"),
        ("llama-server --rate-limit 1.5", "whole number"),
        ("llama-server --rate-limit 3 --rate-window never", "--rate-window never"),
        ("llama-server --rate-limit 3 --rate-window nan", "--rate-window nan"),
        ("llama-server --max-tokens 1e9", "--max-tokens 1e9"),
        ("llama-server --host /tmp/x.sock", "Unix socket"),
        ("llama-server --api-prefix /llama", "--api-prefix"),
        ("llama-server --models-dir /m", "TCP port"),
    ],
)
def test_what_cannot_be_is_said_to_people(line: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        read(line)
    assert said in str(error.value)


def test_the_environment_can_ask_for_what_cannot_be_too() -> None:
    with pytest.raises(UsageError, match="--models-dir"):
        read("llama-server", {"LLAMA_ARG_MODELS_DIR": "/models"})


@pytest.mark.parametrize("program", ["llama-server", "/opt/llama-server-cuda", "bin/llama-server.real"])
def test_builds_of_llama_server_have_several_names(program: str) -> None:
    assert read(f"{program} -m a.gguf").program == program
