"""An application under a real server on a port of its own, and a client that speaks HTTP over plain sockets."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from werkzeug.serving import make_server

from running_guard import Records, post, read_all

__all__ = ["Client", "Records", "Reply", "post", "serve_asgi", "serve_wsgi"]


class Reply:
    """An answer, read to its end."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.rest = raw.partition(b"\r\n\r\n")
        self.status = int(head.split(b" ", 2)[1]) if head else 0
        self.head = head.decode("latin-1")

    def header(self, name: str) -> str | None:
        found = re.search(rf"(?im)^{re.escape(name)}: (.*?)\r?$", self.head)
        return found[1] if found else None

    @property
    def body(self) -> bytes:
        if (self.header("transfer-encoding") or "").lower() == "chunked":
            return b"".join(re.findall(rb"(?s)[0-9a-f]+\r\n(.*?)\r\n(?=[0-9a-f]+\r\n)", self.rest))
        return self.rest

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Talks to the application on `port`."""

    def __init__(self, port: int) -> None:
        self.port = port

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def send(self, data: bytes) -> Reply:
        with self.connect() as connection:
            connection.sendall(data)
            return Reply(read_all(connection))

    def get(self, path: str, headers: str = "", *, method: str = "GET") -> Reply:
        return self.send(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}\r\n".encode())

    def post(self, body: Any, path: str = "/completion", headers: str = "") -> Reply:
        return self.send(post(body, path=path, headers=headers + "Connection: close\r\n"))

    def post_chunked(self, chunks: list[bytes], path: str = "/completion") -> Reply:
        with self.connect() as connection:
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            )
            try:
                for chunk in [*chunks, b""]:
                    connection.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            except ConnectionError:
                pass
            return Reply(read_all(connection))


@contextmanager
def serve_asgi(app: Any, *, root_path: str = "") -> Iterator[Client]:
    """Serve an ASGI application with uvicorn."""
    config = uvicorn.Config(
        app, port=0, log_level="critical", proxy_headers=False, lifespan="on", ws="none", root_path=root_path
    )
    server = uvicorn.Server(config)

    def run() -> None:
        with suppress(SystemExit):  # how uvicorn ends where the application does not start
            server.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_for(lambda: server.started or not thread.is_alive())
    assert thread.is_alive(), "the application did not start"
    try:
        yield Client(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def serve_wsgi(app: Any) -> Iterator[Client]:
    """Serve a WSGI application with werkzeug, a thread for each connection."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Client(server.server_port)
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def wait_for(condition: Callable[[], object], timeout: float = 20.0) -> None:
    """Wait until `condition` holds, and fail where it never does."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.005)
