"""A request as it arrives: its head and body so far, and what of its framing is not served."""

from typing import Final, NamedTuple

_ONCE: Final = frozenset((b"host", b"authorization", b"x-api-key", b"content-type", b"content-length",
                          b"transfer-encoding", b"expect", b"origin", b"x-original-method", b"x-original-uri",
                          b"x-forwarded-method", b"x-forwarded-uri"))  # fmt: skip
_JOINED: Final = frozenset((b"x-forwarded-for", b"forwarded"))

TOO_LARGE = "The head is too large."


class Incoming:
    """A request as it arrives.

    `fault` says why it cannot be served, "" if it can; `plain` that it is framed by its length alone, and that more may
    follow on its connection.
    """

    __slots__ = ("body", "complete", "fault", "head", "head_bytes", "http10", "keep_alive", "method", "plain",
                 "repeated", "size", "target")  # fmt: skip

    def __init__(self, head: dict[bytes, bytes]) -> None:
        self.head = head
        self.method = b""
        self.target = b""
        self.body: list[bytes] = []
        self.size = 0
        self.head_bytes = 0
        self.repeated = 0
        self.fault = ""
        self.http10 = False
        self.keep_alive = True
        self.complete = False
        self.plain = False

    def add_field(self, name: bytes, value: bytes) -> None:
        """Take a header field. Those that decide how a request is read may come once."""
        head = self.head
        self.head_bytes += len(name) + len(value) + 4
        name = name.lower()
        if name in head:
            self.repeated += 1
            if name in _ONCE:
                self.fault = f"The header {name.decode()} was sent twice."
            elif name in _JOINED:
                value = head[name] + b"," + value
        head[name] = value

    def check_framing(self, max_headers: int, max_head: int) -> None:
        """Note what of the head's framing is not served: too many fields or bytes, and what could be read two ways."""
        head = self.head
        if len(head) + self.repeated > max_headers or self.head_bytes + len(self.target) > max_head:
            self.fault = TOO_LARGE
        chunked = b"transfer-encoding" in head
        if chunked and (self.http10 or head[b"transfer-encoding"].strip().lower() != b"chunked"):
            self.fault = "The only transfer coding that is served is chunked, in HTTP/1.1."
        if b"host" not in head and not self.http10:
            self.fault = self.fault or "The header Host is missing."
        self.plain = self.keep_alive and not self.http10 and not self.fault and not chunked

    def content_length(self) -> int:
        """Return what Content-Length says, in bytes; 0 without one. llhttp has made sure that it is a number."""
        return int(self.head.get(b"content-length", b"0"))

    def take_body(self) -> bytes:
        """Return the body, and keep it no longer."""
        body = b"" if not self.size else self.body[0] if len(self.body) == 1 else b"".join(self.body)
        self.body = []
        return body


class KnownHead(NamedTuple):
    """A head that this connection has sent, and what llhttp made of it.

    Whoever keeps a connection busy in a loop sends the same head again and again. At the start of a message, the same
    bytes with the same Content-Length, and exactly that much body in the read, mean the same request: 4 µs saved.
    """

    head: bytes
    total: int
    incoming: Incoming

    def again(self, data: bytes) -> Incoming:
        """Read `data`, which begins with the head and has its `total` length, as llhttp would."""
        before = self.incoming
        incoming = Incoming(before.head)
        incoming.method = before.method
        incoming.target = before.target
        incoming.size = len(data) - len(self.head)
        if incoming.size:
            incoming.body = [data[len(self.head) :]]
        incoming.complete = True
        return incoming


def known_head(incoming: Incoming, data: bytes) -> KnownHead | None:
    """Remember the head of a request that one read brought whole; None unless nothing else was in the read."""
    size = len(data) - incoming.content_length()
    if incoming.plain and size > 0 and data.find(b"\r\n\r\n") + 4 == size:
        return KnownHead(data[:size], len(data), incoming)
    return None
