"""Tokens, keys and issuers that tests make."""

import json
import threading
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

NOW = 1_800_000_000
SECRET = "correct-horse-battery-staple-0123456789-abcdefghijklmnopqrstuvwxyz!"

RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
EC384 = ECKey.generate_key("P-384", {"kid": "ec384"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
OCT = OctKey.import_key(SECRET)

CLAIMS: dict[str, Any] = {"sub": "alice", "exp": NOW + 60}


def part(value: Any) -> str:
    """Encode one part of a token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(key: Key, algorithm: str, claims: Any = None, **header: Any) -> bytes:
    """Sign claims, with whatever header."""
    payload = part(CLAIMS if claims is None else claims)
    signing_input = f"{part({'alg': algorithm, **header})}.{payload}".encode()
    signature = JWSRegistry.algorithms[algorithm].sign(signing_input, key)
    return signing_input + b"." + part(signature).encode()


def pem(key: Key) -> str:
    """Write the public half."""
    return key.as_pem(private=False).decode()  # type: ignore[union-attr]  # no test asks a secret


def jwks(*keys: Key, **more: Any) -> bytes:
    """Write a set of public keys."""
    return json.dumps({"keys": [{**key.as_dict(private=False), **more} for key in keys]}).encode()


@dataclass
class Issuer:
    """A server that publishes keys."""

    body: bytes = b""
    status: int = 200
    location: str = ""
    asked: int = 0
    port: int = 0
    news: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks.json"

    def wait_for(self, count: int) -> None:
        """Wait until it was asked `count` times."""
        with self.news:
            assert self.news.wait_for(lambda: self.asked >= count, 20)


def start_issuer(issuer: Issuer) -> ThreadingHTTPServer:
    """Serve on a port of its own; the caller shuts it down."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with issuer.news:
                issuer.asked += 1
                issuer.news.notify_all()
            self.send_response(issuer.status)
            if issuer.location:
                self.send_header("Location", issuer.location)
            self.send_header("Content-Length", str(len(issuer.body)))
            self.end_headers()
            self.wfile.write(issuer.body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    issuer.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


__all__ = ["CLAIMS", "EC", "EC384", "ED", "NOW", "OCT", "RSA", "SECRET", "Issuer", "jwks", "jws", "part", "pem", "sign",
           "start_issuer"]  # fmt: skip
