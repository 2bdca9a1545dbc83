"""What nginx, Caddy, Traefik and Envoy ask a guard, on the wire: their questions as captured from the real ones."""

import json
import re
from dataclasses import dataclass, field

PROXIES = ("nginx", "caddy", "traefik", "envoy")
CLIENT = "203.0.113.9"


def question(
    proxy: str, method: str = "POST", uri: str = "/v1/chat/completions", *, headers: str = "", address: str = CLIENT
) -> bytes:
    """Write what `proxy` asks about a request. `headers` are its client's, each with its CRLF: all are passed on."""
    told = {
        "nginx": f"GET /authz/nginx HTTP/1.1\r\nX-Original-Method: {method}\r\nX-Original-URI: {uri}\r\nHost: corral\r\n",
        "caddy": f"GET /authz/caddy HTTP/1.1\r\nHost: example.org\r\nX-Forwarded-Host: example.org\r\n"
        f"X-Forwarded-Method: {method}\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Uri: {uri}\r\nAccept-Encoding: gzip\r\n",
        "traefik": f"GET /authz/traefik HTTP/1.1\r\nHost: 127.0.0.1:8082\r\nX-Forwarded-Host: example.org\r\n"
        f"X-Forwarded-Method: {method}\r\nX-Forwarded-Port: 80\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Uri: {uri}\r\n"
        "Accept-Encoding: gzip\r\n",
        "envoy": f"{method} /authz/envoy{uri} HTTP/1.1\r\nhost: example.org\r\ncontent-length: 0\r\n"
        "x-envoy-internal: true\r\nx-envoy-expected-rq-timeout-ms: 2000\r\n",
    }
    return f"{told[proxy]}{headers}X-Forwarded-For: {address}\r\n\r\n".encode()


@dataclass
class Answered:
    """An answer as its proxy reads it."""

    status: int
    fields: dict[str, str]
    body: bytes
    raw: bytes = field(repr=False, default=b"")

    @property
    def error(self) -> dict[str, object]:
        return json.loads(self.body)["error"]


def read_answer(raw: bytes) -> Answered:
    """Read one whole answer."""
    head, _, body = raw.partition(b"\r\n\r\n")
    start, *lines = head.decode("latin-1").split("\r\n")
    match = re.fullmatch(r"HTTP/1.1 (\d{3}) .*", start)
    assert match, raw
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert len(fields) == len(lines), f"a header came twice: {lines}"
    return Answered(int(match.group(1)), fields, body, raw)


def ask(guard, proxy: str, *arguments, **named) -> Answered:
    """Ask a guard of `running_guard` on a new connection."""
    raw = question(proxy, *arguments, **named)
    return read_answer(guard.send(raw.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)))
