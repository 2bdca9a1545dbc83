"""What a llama-server command line asks for, and which part of it is the guard's to do.

The guard answers where the server would have: its host, port, certificate and keys become the guard's, and
the server is left with a private socket. Three options that llama-server never had (`--rate-limit`,
`--rate-window`, `--max-tokens`) are taken over wherever they stand. Everything else is passed on untouched.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from corral.errors import UsageError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
"""Where llama-server listens if it is not told."""

_TAKEN = {
    "--host": "host",
    "--port": "port",
    "--api-key": "api_key",
    "--api-key-file": "api_key_file",
    "--ssl-cert-file": "tls_certificate",
    "--ssl-key-file": "tls_key",
    "--rate-limit": "rate_limit",
    "--rate-window": "rate_window",
    "--max-tokens": "max_tokens",
}
"""Options with one value that the guard takes over, and what each sets."""

_TAKEN_ENVIRONMENT = {
    "LLAMA_ARG_HOST": "host",
    "LLAMA_ARG_PORT": "port",
    "LLAMA_API_KEY": "api_key",
    "LLAMA_ARG_API_KEY_FILE": "api_key_file",
    "LLAMA_ARG_SSL_CERT_FILE": "tls_certificate",
    "LLAMA_ARG_SSL_KEY_FILE": "tls_key",
}
"""The same from llama-server's environment; an option on the command line wins."""

_ROUTER = (
    "runs each model as a server of its own on a TCP port, where the guard cannot stand in front of it; "
    "start one model with -m"
)
_REFUSED = {
    "--api-prefix": "serves under a path that the guard does not know; leave it out",
    "--models-dir": _ROUTER,
    "--models-preset": _ROUTER,
}
_REFUSED_ENVIRONMENT = {
    "LLAMA_ARG_API_PREFIX": "--api-prefix",
    "LLAMA_ARG_MODELS_DIR": "--models-dir",
    "LLAMA_ARG_MODELS_PRESET": "--models-preset",
}

_TOOLS = "lets clients run commands or read files through the server; the guard denies its routes"
_FORWARDER = "makes the server fetch addresses for its clients; the guard denies its route"
_NOTED = {
    "--tools": _TOOLS,
    "--agent": _TOOLS,
    "-ag": _TOOLS,
    "--mcp-servers-config": _TOOLS,
    "--mcp-servers-json": _TOOLS,
    "--ui-mcp-proxy": _FORWARDER,
    "--webui-mcp-proxy": _FORWARDER,
    "--props": "lets clients change the server's settings; the guard denies POST /props",
    "--slot-save-path": "lets clients save and erase prompt caches; the guard denies /slots/N?action=",
    "--media-path": "lets requests read files of that folder by file:// addresses",
}
_DEFAULT_LENGTH = "is only a default that any request may exceed; the guard's --max-tokens is the cap"
_NOTED |= dict.fromkeys(("-n", "--predict", "--n-predict"), _DEFAULT_LENGTH)
_NOTED_ENVIRONMENT = {
    "LLAMA_ARG_TOOLS": "--tools",
    "LLAMA_ARG_AGENT": "--agent",
    "LLAMA_ARG_MCP_SERVERS_CONFIG": "--mcp-servers-config",
    "LLAMA_ARG_MCP_SERVERS_JSON": "--mcp-servers-json",
    "LLAMA_ARG_UI_MCP_PROXY": "--ui-mcp-proxy",
    "LLAMA_ARG_ENDPOINT_PROPS": "--props",
}

_TELLING = frozenset(
    ("-h", "--help", "--usage", "--version", "-cl", "--cache-list", "--completion-bash", "--list-devices")
)

_ORIGINS_OPTION = "--cors-origins"
_ORIGINS_VARIABLE = "LLAMA_ARG_CORS_ORIGINS"

_SERVER_NAME = re.compile(r"llama-server(?:[-.].+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start a server that only the guard can reach, and what its command line asked of the guard.

    `program` and `arguments` are the child's, without what was taken over; `environ` is all its environment.
    `host`, `port`, `tls_certificate`, `tls_key`, `rate_limit` (requests), `rate_window` (seconds) and
    `max_tokens` are None where nobody named them. `api_keys` are clear keys and never shown; `api_key_files`
    paths of files with one key a line. `notices` are sentences for the person who starts it.
    """

    program: str
    arguments: tuple[str, ...]
    environ: Mapping[str, str]
    host: str | None = None
    port: int | None = None
    api_keys: tuple[str, ...] = ()
    api_key_files: tuple[str, ...] = ()
    tls_certificate: str | None = None
    tls_key: str | None = None
    rate_limit: int | None = None
    rate_window: float | None = None
    max_tokens: int | None = None
    notices: tuple[str, ...] = ()

    @property
    def only_tells(self) -> bool:
        """Whether the server will print something and end, and serve nobody: `--version`, `--help` and the like."""
        return any(_canonical(word) in _TELLING for word in self.arguments)

    def command(self, socket_path: str) -> list[str]:
        """Spell the child's command line for a Unix socket, whose name must end in `.sock`."""
        return [self.program, *self.arguments, "--host", socket_path]


def read_arguments(command: Sequence[str], environ: Mapping[str, str]) -> Launch:
    """Read the command that follows `--` in `corral run -- llama-server …`.

    A value that is spelled like one of the options taken over is read as that option: llama-server's own list
    of which options have values is not kept here.

    Raises:
        UsageError: there is no command, the program is not llama-server, a value is missing or wrong, or an
            option would put the server where the guard cannot stand in front of it.

    """
    if not command:
        raise UsageError("Say which server to start, as in: corral run -- llama-server -m model.gguf")
    program = command[0]
    if not _SERVER_NAME.fullmatch(PurePath(program).name):
        raise UsageError(
            f"corral run can start llama-server only, and {program!r} is not it. Start the server yourself, "
            "on an address that nobody else reaches, and guard it: corral guard http://127.0.0.1:8081"
        )
    taken: dict[str, list[str]] = {}
    rest: list[str] = []
    noted: dict[str, str] = {}
    for option, value, words in _options(command[1:]):
        _refuse(option)
        if option in _TAKEN:
            taken.setdefault(_TAKEN[option], []).append(_value(option, value))
            continue
        if option in _NOTED:
            noted[option] = _NOTED[option]
        rest += words
    child_environ = _child_environment(environ, taken, noted)
    if not any(option == _ORIGINS_OPTION for option, _, _ in _options(rest)):
        # Its default echoes any origin, with credentials. A variable: older servers ignore unknown ones.
        child_environ.setdefault(_ORIGINS_VARIABLE, "localhost")
    return Launch(
        program=program,
        arguments=tuple(rest),
        environ=child_environ,
        host=_host(taken),
        port=_whole("--port", taken.get("port"), 0, 65535),
        api_keys=_keys(taken.get("api_key", [])),
        api_key_files=tuple(taken.get("api_key_file", [])),
        tls_certificate=_last(taken.get("tls_certificate")),
        tls_key=_last(taken.get("tls_key")),
        rate_limit=_whole("--rate-limit", taken.get("rate_limit"), 1, 10**9),
        rate_window=_seconds("--rate-window", taken.get("rate_window")),
        max_tokens=_whole("--max-tokens", taken.get("max_tokens"), 1, 10**9),
        notices=tuple(f"{option} {meaning}." for option, meaning in noted.items()),
    )


def _options(words: Sequence[str]) -> Iterator[tuple[str, str | None, list[str]]]:
    """Walk the words: each option's canonical name, its value if it is taken over, the words as written."""
    at = 0
    while at < len(words):
        word = words[at]
        name, equals, value = word.partition("=")
        option = _canonical(name if equals else word)
        if option not in _TAKEN:
            yield option, None, [word]
            at += 1
        elif equals:
            yield option, value, [word]
            at += 1
        else:
            yield option, words[at + 1] if at + 1 < len(words) else None, list(words[at : at + 2])
            at += 2


def _canonical(word: str) -> str:
    """Spell a long option as llama-server reads it: `--api_key` is `--api-key`."""
    return word.replace("_", "-") if word.startswith("--") else word


def _value(option: str, value: str | None) -> str:
    if value is None or value == "":
        raise UsageError(f"{option} needs a value after it.")
    return value


def _refuse(option: str) -> None:
    if option in _REFUSED:
        raise UsageError(f"corral run cannot guard a server with {option}: it {_REFUSED[option]}.")


def _child_environment(
    environ: Mapping[str, str], taken: dict[str, list[str]], noted: dict[str, str]
) -> dict[str, str]:
    """Take over what the environment says; `taken` and `noted` gain what the command line left open."""
    child = {name: value for name, value in environ.items() if not name.startswith("CORRAL_")}  # our own secrets
    named = set(taken)
    for variable, what in _TAKEN_ENVIRONMENT.items():
        value = child.pop(variable, "")
        if value and what not in named:
            taken[what] = [value]
    for variable, option in _REFUSED_ENVIRONMENT.items():
        if child.get(variable):
            _refuse(option)
    for variable, option in _NOTED_ENVIRONMENT.items():
        if child.get(variable, "").lower() not in ("", "0", "false", "off", "disabled"):
            noted.setdefault(variable, _NOTED[option])
    return child


def _host(taken: Mapping[str, list[str]]) -> str | None:
    host = _last(taken.get("host"))
    if host is not None and host.endswith(".sock"):
        raise UsageError(f"The guard answers on a TCP port, not on the Unix socket {host!r}; name a --host and --port.")
    return host


def _keys(values: Sequence[str]) -> tuple[str, ...]:
    """Read the keys of every `--api-key`; each may hold several, parted by commas."""
    return tuple(key for value in values for key in value.split(",") if key)


def _last(values: Sequence[str] | None) -> str | None:
    """Answer the value that llama-server would take where an option is repeated."""
    return values[-1] if values else None


def _whole(option: str, values: Sequence[str] | None, least: int, most: int) -> int | None:
    text = _last(values)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        raise UsageError(f"{option} {text}: write a whole number from {least} to {most}.")
    return int(text)


def _seconds(option: str, values: Sequence[str] | None) -> float | None:
    text = _last(values)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.001 <= seconds <= 366 * 86400:
        raise UsageError(f"{option} {text}: write a number of seconds, as in {option} 60.")
    return seconds
