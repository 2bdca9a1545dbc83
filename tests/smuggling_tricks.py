"""The public catalogue of request-smuggling tricks, one row each.

Every trick is one request that intends a chat, written so that two readers may disagree about where it ends or what it
is, and a poison hidden behind that end. The poison carries no key, so whoever takes it for a request of its own and
asks for one refuses it; a server behind the guard that sees it would serve it.
"""

from collections.abc import Iterator
from typing import NamedTuple

KEY = b"the-key-of-an-honest-client"
CHAT = b'{"messages":[{"role":"user","content":"intended"}],"max_tokens":4}'
_POISON_BODY = b'{"prompt":"poison","n_predict":50}'
POISON = (
    b"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_POISON_BODY), _POISON_BODY)
)
SIZE = b"%x" % len(CHAT)
LENGTH = b"Content-Length: %d" % len(CHAT)
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b"%b\r\n%b\r\n0\r\n\r\n" % (SIZE, CHAT)
LINE = b"POST /v1/chat/completions HTTP/1.1"
HOST = b"Host: 127.0.0.1"


SERVED = "200 401"
"""The chat is answered, and the poison behind it refused for want of a key, as what it is: another request."""

REFUSED = "400"
"""It is no HTTP/1.1, or none that all read alike: nothing more is read."""

TWICE_REFUSED = "400 400"
"""A request without a chat, and behind it what is no request."""

CUT = ""
"""The connection is cut, perhaps just before the chat's answer: what follows the last request is no request."""


class Trick(NamedTuple):
    """`raw` is what is sent, `transcript` the statuses of what the guard answers."""

    name: str
    raw: bytes
    transcript: str

    def asks_for(self, path: bytes) -> bool:
        """Tell whether its request line names this path."""
        return b" %b " % path in self.raw.partition(b"\n")[0]


def head(*fields: bytes, line: bytes = LINE, host: bytes = HOST, end: bytes = b"\r\n") -> bytes:
    """Write a head with the key and these fields."""
    lines = (line, host, b"Authorization: Bearer " + KEY, b"Content-Type: application/json", *fields)
    return b"".join(one + end for one in lines) + end


CODINGS: dict[str, tuple[bytes, str]] = {
    # name: the field, and what the guard answers
    "plain": (b"Transfer-Encoding: chunked", SERVED),
    "name in lower case": (b"transfer-encoding: chunked", SERVED),
    "name in upper case": (b"TRANSFER-ENCODING: chunked", SERVED),
    "name in mixed case": (b"tRANSFER-eNCODING: chunked", SERVED),
    "value in upper case": (b"Transfer-Encoding: CHUNKED", SERVED),
    "value in mixed case": (b"Transfer-Encoding: cHuNkEd", SERVED),
    "no space": (b"Transfer-Encoding:chunked", SERVED),
    "several spaces": (b"Transfer-Encoding:    chunked", SERVED),
    "tab before value": (b"Transfer-Encoding:\tchunked", SERVED),
    "trailing space": (b"Transfer-Encoding: chunked ", SERVED),
    "trailing tab": (b"Transfer-Encoding: chunked\t", REFUSED),
    "space before colon": (b"Transfer-Encoding : chunked", REFUSED),
    "tab before colon": (b"Transfer-Encoding\t: chunked", REFUSED),
    "vertical tab before value": (b"Transfer-Encoding:\x0bchunked", REFUSED),
    "vertical tab after value": (b"Transfer-Encoding: chunked\x0b", REFUSED),
    "form feed before value": (b"Transfer-Encoding: \x0cchunked", REFUSED),
    "form feed after value": (b"Transfer-Encoding: chunked\x0c", REFUSED),
    "backspace before value": (b"Transfer-Encoding: \x08chunked", REFUSED),
    "unit separator before value": (b"Transfer-Encoding: \x1fchunked", REFUSED),
    "delete after value": (b"Transfer-Encoding: chunked\x7f", REFUSED),
    "no-break space after value": (b"Transfer-Encoding: chunked\xa0", REFUSED),
    "next line after value": (b"Transfer-Encoding: chunked\x85", REFUSED),
    "high byte before value": (b"Transfer-Encoding: \xffchunked", REFUSED),
    "kelvin sign for k": (b"Transfer-Encoding: chun\xe2\x84\xaaed", REFUSED),
    "NUL in name": (b"Transfer-Encoding\x00: chunked", REFUSED),
    "NUL before value": (b"Transfer-Encoding: \x00chunked", REFUSED),
    "NUL after value": (b"Transfer-Encoding: chunked\x00", REFUSED),
    "double": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", REFUSED),
    "double in two cases": (b"Transfer-Encoding: chunked\r\ntransfer-encoding: chunked", REFUSED),
    "chunked then identity": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", REFUSED),
    "identity then chunked": (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", REFUSED),
    "nonsense then chunked": (b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked", REFUSED),
    "chunked then nonsense": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow", REFUSED),
    "chunked then empty": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding:", REFUSED),
    "list of chunked twice": (b"Transfer-Encoding: chunked, chunked", REFUSED),
    "list chunked, identity": (b"Transfer-Encoding: chunked, identity", REFUSED),
    "list identity, chunked": (b"Transfer-Encoding: identity, chunked", REFUSED),
    "list gzip, chunked": (b"Transfer-Encoding: gzip, chunked", REFUSED),
    "list chunked, gzip": (b"Transfer-Encoding: chunked, gzip", REFUSED),
    "leading comma": (b"Transfer-Encoding: ,chunked", REFUSED),
    "trailing comma": (b"Transfer-Encoding: chunked,", REFUSED),
    "parameter": (b"Transfer-Encoding: chunked;q=1", REFUSED),
    "double quotes": (b'Transfer-Encoding: "chunked"', REFUSED),
    "single quotes": (b"Transfer-Encoding: 'chunked'", REFUSED),
    "identity": (b"Transfer-Encoding: identity", REFUSED),
    "empty": (b"Transfer-Encoding:", REFUSED),
    "prefix": (b"Transfer-Encoding: xchunked", REFUSED),
    "suffix": (b"Transfer-Encoding: chunkedx", REFUSED),
    "cut short": (b"Transfer-Encoding: chunke", REFUSED),
    "value folded": (b"Transfer-Encoding:\r\n chunked", REFUSED),
    "value folded by a tab": (b"Transfer-Encoding:\r\n\tchunked", REFUSED),
    "list folded": (b"Transfer-Encoding: chunked\r\n , identity", REFUSED),
    "folded to nothing": (b"Transfer-Encoding: chunked\r\n ", REFUSED),
    "folded into another field": (b"X-Other: y\r\n Transfer-Encoding: chunked", REFUSED),
    "folded by a tab into another field": (b"X-Other: y\r\n\tTransfer-Encoding: chunked", REFUSED),
    "name split before colon": (b"Transfer-Encoding\r\n: chunked", REFUSED),
    "after a bare LF": (b"X-Other: y\nTransfer-Encoding: chunked", REFUSED),
    "after a bare CR": (b"X-Other: y\rTransfer-Encoding: chunked", REFUSED),
    "after two CRs": (b"X-Other: y\r\rTransfer-Encoding: chunked", REFUSED),
    "bare CR after value": (b"Transfer-Encoding: chunked\rX-Other: y", REFUSED),
    "bare LF in value": (b"Transfer-Encoding:\nchunked", REFUSED),
    "bare CR before value": (b"Transfer-Encoding: \rchunked", REFUSED),
    "underscore": (b"Transfer_Encoding: chunked", REFUSED),
    "space for hyphen": (b"Transfer Encoding: chunked", REFUSED),
    "no-break space after name": (b"Transfer-Encoding\xa0: chunked", REFUSED),
    "two colons": (b"Transfer-Encoding:: chunked", REFUSED),
    "colon first": (b":Transfer-Encoding: chunked", REFUSED),
    "equals sign for colon": (b"Transfer-Encoding=chunked", REFUSED),
    "no colon": (b"Transfer-Encoding chunked", REFUSED),
    "space first": (b" Transfer-Encoding: chunked", REFUSED),
    "longer name": (b"X-Transfer-Encoding: chunked", REFUSED),
    "named by Connection": (b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", SERVED),
    "TE only": (b"TE: chunked", REFUSED),
    "Content-Encoding only": (b"Content-Encoding: chunked", REFUSED),
}  # fmt: skip


def _codings() -> Iterator[Trick]:
    hidden = CHUNKS + POISON
    for name, (field, transcript) in CODINGS.items():
        unheard = name in ("underscore", "longer name", "TE only", "Content-Encoding only")
        yield Trick(f"TE: {name}", head(field) + hidden, TWICE_REFUSED if unheard else transcript)
        length = b"Content-Length: %d" % len(hidden)
        yield Trick(f"CL.TE: {name}", head(length, field) + hidden, REFUSED)
        length = b"Content-Length: %d" % (len(SIZE) + 2)
        yield Trick(f"TE.CL: {name}", head(field, length) + hidden, TWICE_REFUSED if unheard else REFUSED)


_N = b"%d" % len(CHAT)

LENGTHS: dict[str, tuple[bytes, str]] = {
    # name: the fields, and what the guard answers
    "plain": (LENGTH, SERVED),
    "leading zero": (b"Content-Length: 0" + _N, SERVED),
    "many leading zeros": (b"Content-Length: " + b"0" * 300 + _N, SERVED),
    "several spaces": (b"Content-Length:    " + _N, SERVED),
    "trailing space": (LENGTH + b" ", SERVED),
    "tab before number": (b"Content-Length:\t" + _N, SERVED),
    "trailing tab": (LENGTH + b"\t", SERVED),
    "plus": (b"Content-Length: +" + _N, REFUSED),
    "minus": (b"Content-Length: -" + _N, REFUSED),
    "minus one": (b"Content-Length: -1", REFUSED),
    "hexadecimal": (b"Content-Length: 0x%x" % len(CHAT), REFUSED),
    "hexadecimal digits": (b"Content-Length: 4f", REFUSED),
    "octal": (b"Content-Length: 0o102", REFUSED),
    "decimal point": (LENGTH + b".0", REFUSED),
    "exponent": (LENGTH + b"e0", REFUSED),
    "digits parted by underscore": (b"Content-Length: 6_6", REFUSED),
    "digits parted by space": (b"Content-Length: 6 6", REFUSED),
    "space and another number": (LENGTH + b" 0", REFUSED),
    "list equal": (LENGTH + b", " + _N, REFUSED),
    "list different": (LENGTH + b", 0", REFUSED),
    "list that begins with zero": (b"Content-Length: 0, " + _N, REFUSED),
    "leading comma": (b"Content-Length: ," + _N, REFUSED),
    "trailing comma": (LENGTH + b",", REFUSED),
    "semicolon": (LENGTH + b";", REFUSED),
    "quoted": (b'Content-Length: "' + _N + b'"', REFUSED),
    "empty": (b"Content-Length:", REFUSED),
    "blank": (b"Content-Length:  ", REFUSED),
    "vertical tab before": (b"Content-Length:\x0b" + _N, REFUSED),
    "vertical tab after": (LENGTH + b"\x0b", REFUSED),
    "form feed after": (LENGTH + b"\x0c", REFUSED),
    "NUL after": (LENGTH + b"\x00", REFUSED),
    "NUL in name": (b"Content-Length\x00: " + _N, REFUSED),
    "no-break space after": (LENGTH + b"\xa0", REFUSED),
    "Arabic digits": ("Content-Length: ٦٦".encode(), REFUSED),
    "beyond 64 bits": (b"Content-Length: %d" % (2**64 + len(CHAT)), REFUSED),
    "beyond 32 bits": (b"Content-Length: %d" % (2**32 + len(CHAT)), "413"),
    "most 64 bits hold": (b"Content-Length: %d" % (2**64 - 1), "413"),
    "twice equal": (LENGTH + b"\r\n" + LENGTH, REFUSED),
    "twice, the second zero": (LENGTH + b"\r\nContent-Length: 0", REFUSED),
    "twice, the first zero": (b"Content-Length: 0\r\n" + LENGTH, REFUSED),
    "twice in two cases": (LENGTH + b"\r\ncontent-length: 0", REFUSED),
    "twice, the second empty": (LENGTH + b"\r\nContent-Length:", REFUSED),
    "space before colon": (b"Content-Length : " + _N, REFUSED),
    "tab before colon": (b"Content-Length\t: " + _N, REFUSED),
    "folded": (b"Content-Length:\r\n " + _N, REFUSED),
    "second number folded": (LENGTH + b"\r\n 0", REFUSED),
    "folded into another field": (b"X-Other: y\r\n " + LENGTH, REFUSED),
    "after a bare LF": (b"X-Other: y\n" + LENGTH, REFUSED),
    "after a bare CR": (b"X-Other: y\r" + LENGTH, REFUSED),
    "underscore beside": (LENGTH + b"\r\nContent_Length: 0", SERVED),
    "underscore only": (b"Content_Length: " + _N, TWICE_REFUSED),
    "space in name": (b"Content Length: " + _N, REFUSED),
    "two colons": (b"Content-Length:: " + _N, REFUSED),
    "space first": (b" " + LENGTH, REFUSED),
    "named by Connection": (LENGTH + b"\r\nConnection: Content-Length", SERVED),
    "zero": (b"Content-Length: 0", TWICE_REFUSED),
    "absent": (b"X-Other: y", TWICE_REFUSED),
}  # fmt: skip


def _lengths() -> Iterator[Trick]:
    for name, (field, transcript) in LENGTHS.items():
        yield Trick(f"CL: {name}", head(field) + CHAT + POISON, transcript)


_LAST = b"0\r\n\r\n"
_DATA = CHAT + b"\r\n"

CHUNKINGS: dict[str, tuple[bytes, str]] = {
    # name: the body, and what the guard answers
    "one chunk": (CHUNKS, SERVED),
    "many chunks": (b"".join(b"1\r\n%c\r\n" % byte for byte in CHAT) + _LAST, SERVED),
    "size in upper case": (SIZE.upper() + b"\r\n" + _DATA + _LAST, SERVED),
    "leading zero": (b"0" + SIZE + b"\r\n" + _DATA + _LAST, SERVED),
    "twelve leading zeros": (b"0" * 12 + SIZE + b"\r\n" + _DATA + _LAST, SERVED),
    "many leading zeros": (b"0" * 300 + SIZE + b"\r\n" + _DATA + _LAST, SERVED),
    "last of many zeros": (SIZE + b"\r\n" + _DATA + b"0000\r\n\r\n", SERVED),
    "size beyond 64 bits": (b"1" + SIZE.rjust(16, b"0") + b"\r\n" + _DATA + _LAST, REFUSED),
    "size beyond 32 bits": (b"1" + SIZE.rjust(8, b"0") + b"\r\n" + _DATA + _LAST, "408"),
    "most 64 bits hold": (b"f" * 16 + b"\r\n" + _DATA + _LAST, "408"),
    "negative": (b"-" + SIZE + b"\r\n" + _DATA + _LAST, REFUSED),
    "plus": (b"+" + SIZE + b"\r\n" + _DATA + _LAST, REFUSED),
    "0x": (b"0x" + SIZE + b"\r\n" + _DATA + _LAST, REFUSED),
    "0X": (b"0X" + SIZE + b"\r\n" + _DATA + _LAST, REFUSED),
    "space before size": (b" " + SIZE + b"\r\n" + _DATA + _LAST, REFUSED),
    "tab before size": (b"\t" + SIZE + b"\r\n" + _DATA + _LAST, REFUSED),
    "space after size": (SIZE + b" \r\n" + _DATA + _LAST, REFUSED),
    "tab after size": (SIZE + b"\t\r\n" + _DATA + _LAST, REFUSED),
    "vertical tab after size": (SIZE + b"\x0b\r\n" + _DATA + _LAST, REFUSED),
    "NUL after size": (SIZE + b"\x00\r\n" + _DATA + _LAST, REFUSED),
    "underscore in size": (b"4_2\r\n" + _DATA + _LAST, REFUSED),
    "no hexadecimal digit": (b"4g\r\n" + _DATA + _LAST, REFUSED),
    "comma after size": (SIZE + b",0\r\n" + _DATA + _LAST, REFUSED),
    "empty size": (b"\r\n" + _DATA + _LAST, REFUSED),
    "empty line first": (b"\r\n" + CHUNKS, REFUSED),
    "last of minus zero": (SIZE + b"\r\n" + _DATA + b"-0\r\n\r\n", REFUSED),
    "last of 0x0": (SIZE + b"\r\n" + _DATA + b"0x0\r\n\r\n", REFUSED),
    "last with a space": (SIZE + b"\r\n" + _DATA + b"0 \r\n\r\n", REFUSED),
    "bare LF after size": (SIZE + b"\n" + _DATA + _LAST, REFUSED),
    "bare CR after size": (SIZE + b"\r" + _DATA + _LAST, REFUSED),
    "two CRs after size": (SIZE + b"\r\r\n" + _DATA + _LAST, REFUSED),
    "bare LF after data": (SIZE + b"\r\n" + CHAT + b"\n" + _LAST, REFUSED),
    "bare CR after data": (SIZE + b"\r\n" + CHAT + b"\r" + _LAST, REFUSED),
    "nothing after data": (SIZE + b"\r\n" + CHAT + _LAST, REFUSED),
    "two other bytes after data": (SIZE + b"\r\n" + CHAT + b"XX" + _LAST, REFUSED),
    "data longer than its size": (b"%x\r\n" % (len(CHAT) - 1) + _DATA + _LAST, REFUSED),
    "bare LF after last": (SIZE + b"\r\n" + _DATA + b"0\n\r\n", REFUSED),
    "bare LFs after last": (SIZE + b"\r\n" + _DATA + b"0\n\n", REFUSED),
    "bare CRs after last": (SIZE + b"\r\n" + _DATA + b"0\r\r", REFUSED),
    "bare LF ends trailers": (SIZE + b"\r\n" + _DATA + b"0\r\n\n", REFUSED),
    "no end of trailers": (SIZE + b"\r\n" + _DATA + b"0\r\n", REFUSED),
    "extension": (SIZE + b";name=value\r\n" + _DATA + _LAST, SERVED),
    "extension without value": (SIZE + b";name\r\n" + _DATA + _LAST, SERVED),
    "extension quoted": (SIZE + b';name="a;b\\"c"\r\n' + _DATA + _LAST, SERVED),
    "extensions": (SIZE + b";a=1;b=2;c\r\n" + _DATA + _LAST, SERVED),
    "extension on the last": (SIZE + b"\r\n" + _DATA + b"0;name=value\r\n\r\n", SERVED),
    "extension after a space": (SIZE + b" ;name=value\r\n" + _DATA + _LAST, REFUSED),
    "extension of a lone semicolon": (SIZE + b";\r\n" + _DATA + _LAST, REFUSED),
    "extension of a space": (SIZE + b"; \r\n" + _DATA + _LAST, REFUSED),
    "extension with spaces": (SIZE + b"; name = value\r\n" + _DATA + _LAST, REFUSED),
    "extension without name": (SIZE + b";=value\r\n" + _DATA + _LAST, SERVED),
    "extension with an open quote": (SIZE + b';name="a\r\n' + _DATA + _LAST, REFUSED),
    "extension with a quoted line end": (SIZE + b';name="a\r\n0\r\n\r\n"\r\n' + _DATA + _LAST, REFUSED),
    "extension with bare LF": (SIZE + b";a\nb\r\n" + _DATA + _LAST, REFUSED),
    "extension ended by bare LF": (SIZE + b";a\n" + _DATA + _LAST, REFUSED),
    "extension with bare CR": (SIZE + b";a\rb\r\n" + _DATA + _LAST, REFUSED),
    "extension ended by bare CR": (SIZE + b";a\r" + _DATA + _LAST, REFUSED),
    "extension with NUL": (SIZE + b";a\x00b\r\n" + _DATA + _LAST, REFUSED),
    "extension with a high byte": (SIZE + b";a=\xff\r\n" + _DATA + _LAST, REFUSED),
    "semicolon and bare LF": (SIZE + b";\n" + _DATA + _LAST, REFUSED),
    "extension of 20 kB": (SIZE + b";a=" + b"b" * 20_000 + b"\r\n" + _DATA + _LAST, SERVED),
    "trailer": (SIZE + b"\r\n" + _DATA + b"0\r\nX-Other: y\r\n\r\n", SERVED),
    "trailer Content-Length": (SIZE + b"\r\n" + _DATA + b"0\r\nContent-Length: 400\r\n\r\n", REFUSED),
    "trailer Transfer-Encoding": (SIZE + b"\r\n" + _DATA + b"0\r\nTransfer-Encoding: chunked\r\n\r\n", REFUSED),
    "trailer Host": (SIZE + b"\r\n" + _DATA + b"0\r\nHost: elsewhere\r\n\r\n", SERVED),
    "trailer Authorization": (SIZE + b"\r\n" + _DATA + b"0\r\nAuthorization: Bearer x\r\n\r\n", SERVED),
    "trailer ended by bare LF": (SIZE + b"\r\n" + _DATA + b"0\r\nX-Other: y\n\r\n", REFUSED),
    "trailer with bare CR": (SIZE + b"\r\n" + _DATA + b"0\r\nX-Other: y\rz\r\n\r\n", REFUSED),
    "trailer folded": (SIZE + b"\r\n" + _DATA + b"0\r\nX-Other: y\r\n z\r\n\r\n", REFUSED),
    "trailer without colon": (SIZE + b"\r\n" + _DATA + b"0\r\nX-Other\r\n\r\n", REFUSED),
    "trailer with a space before colon": (SIZE + b"\r\n" + _DATA + b"0\r\nX-Other : y\r\n\r\n", REFUSED),
}  # fmt: skip


def _chunkings() -> Iterator[Trick]:
    for name, (body, transcript) in CHUNKINGS.items():
        yield Trick(f"chunks: {name}", head(CHUNKED) + body + POISON, transcript)


def _line(line: bytes, *, host: bytes = HOST) -> bytes:
    return head(LENGTH, line=line, host=host) + CHAT + POISON


_CHAT = head(LENGTH) + CHAT
_FORBIDDEN_HOST = b"Host: 127.0.0.1\r\nHost: elsewhere"

OTHERS: dict[str, tuple[bytes, str]] = {
    # line ends
    "bare LF after the request line": (_line(LINE + b"\nX-Other: y"), REFUSED),
    "bare CR after the request line": (_line(LINE + b"\rX-Other: y"), REFUSED),
    "bare LF throughout": (head(LENGTH, end=b"\n") + CHAT + POISON, REFUSED),
    "bare CR throughout": (head(LENGTH, end=b"\r") + CHAT + POISON, REFUSED),
    "two CRs throughout": (head(LENGTH, end=b"\r\r\n") + CHAT + POISON, REFUSED),
    "LF CR throughout": (head(LENGTH, end=b"\n\r") + CHAT + POISON, REFUSED),
    "head ended by bare LF": (head(LENGTH)[:-2] + b"\n" + CHAT + POISON, REFUSED),
    "head ended by bare CR": (head(LENGTH)[:-2] + b"\r" + CHAT + POISON, REFUSED),
    "head ended by LF LF within a value": (head(b"X-Other: y\n\n" + POISON + b"X: y", LENGTH) + CHAT, REFUSED),
    "bare CR in a value": (head(b"X-Other: y\rz", LENGTH) + CHAT + POISON, REFUSED),
    "bare CR in a name": (head(b"X-Ot\rher: y", LENGTH) + CHAT + POISON, REFUSED),
    "CRLF before the request line": (b"\r\n" + _CHAT + POISON, SERVED),
    "CRLFs before the poison": (_CHAT + b"\r\n\r\n" + POISON, SERVED),
    "bare LF before the request line": (b"\n" + _CHAT + POISON, SERVED),
    "bare CR before the request line": (b"\r" + _CHAT + POISON, SERVED),
    "space before the request line": (b" " + _CHAT + POISON, REFUSED),
    # request lines
    "several spaces after the method": (_line(b"POST  /v1/chat/completions HTTP/1.1"), SERVED),
    "several spaces before the version": (_line(b"POST /v1/chat/completions  HTTP/1.1"), SERVED),
    "tabs in the request line": (_line(b"POST\t/v1/chat/completions\tHTTP/1.1"), REFUSED),
    "space after the version": (_line(LINE + b" "), REFUSED),
    "space in the target": (_line(b"POST /v1/chat /completions HTTP/1.1"), REFUSED),
    "two versions": (_line(LINE + b" HTTP/1.1"), REFUSED),
    "NUL in the target": (_line(b"POST /v1/chat/completions\x00 HTTP/1.1"), REFUSED),
    "vertical tab in the target": (_line(b"POST /v1/chat/completions\x0b HTTP/1.1"), REFUSED),
    "high byte in the target": (_line(b"POST /v1/chat/completions\xff HTTP/1.1"), REFUSED),
    "encoded line end in the target": (
        _line(b"POST /v1/chat/completions%20HTTP/1.1%0d%0aX:%20y HTTP/1.1"), "404 401"),
    "encoded line end in the query": (
        _line(b"POST /v1/chat/completions?x=%20HTTP/1.1%0d%0a%0d%0aGET%20/ HTTP/1.1"), SERVED),
    "bare LF in the query": (_line(b"POST /v1/chat/completions?x=\nGET / HTTP/1.1"), REFUSED),
    "fragment": (_line(b"POST /v1/chat/completions#/completion HTTP/1.1"), "404 401"),
    "fragment in the query": (_line(b"POST /v1/chat/completions?x#y HTTP/1.1"), SERVED),
    "dot segments": (_line(b"POST /v1/models/../chat/completions HTTP/1.1"), "404 401"),
    "encoded dot segments": (_line(b"POST /v1/models/%2e%2e/chat/completions HTTP/1.1"), "404 401"),
    "backslash": (_line(b"POST \\v1\\chat\\completions HTTP/1.1"), REFUSED),
    "semicolon": (_line(b"POST /v1/chat/completions;x=/completion HTTP/1.1"), "404 401"),
    "two slashes": (_line(b"POST //v1/chat/completions HTTP/1.1"), "404 401"),
    "method in lower case": (_line(b"post /v1/chat/completions HTTP/1.1"), REFUSED),
    "unknown method": (_line(b"POSTS /v1/chat/completions HTTP/1.1"), REFUSED),
    "method with a colon": (_line(b"POST: /v1/chat/completions HTTP/1.1"), REFUSED),
    # targets
    "absolute form": (_line(b"POST http://127.0.0.1/v1/chat/completions HTTP/1.1"), "404 401"),
    "absolute form to elsewhere": (_line(b"POST http://elsewhere/v1/chat/completions HTTP/1.1"), "404 401"),
    "absolute form with user": (_line(b"POST http://127.0.0.1@elsewhere/v1/chat/completions HTTP/1.1"), "404 401"),
    "absolute form of another scheme": (_line(b"POST file:///v1/chat/completions HTTP/1.1"), "404 401"),
    "authority form": (_line(b"POST 127.0.0.1:8080 HTTP/1.1"), REFUSED),
    "authority form of the server": (_line(b"CONNECT 127.0.0.1:8081 HTTP/1.1"), REFUSED),
    "asterisk form": (_line(b"OPTIONS * HTTP/1.1"), "404 401"),
    "asterisk form of a post": (_line(b"POST * HTTP/1.1"), "404 401"),
    "no target": (_line(b"POST HTTP/1.1"), REFUSED),
    # versions
    "HTTP/0.9": (b"GET /v1/models\r\n" + POISON, REFUSED),
    "HTTP/0.9 named": (_line(b"POST /v1/chat/completions HTTP/0.9"), CUT),
    "HTTP/1.0": (_line(b"POST /v1/chat/completions HTTP/1.0"), CUT),
    "HTTP/1.0, kept alive": (
        head(LENGTH, b"Connection: keep-alive", line=b"POST /v1/chat/completions HTTP/1.0") + CHAT + POISON, SERVED),
    "HTTP/1.0, chunked": (head(CHUNKED, line=b"POST /v1/chat/completions HTTP/1.0") + CHUNKS + POISON, REFUSED),
    "HTTP/1.0, chunked, with length": (
        head(CHUNKED, LENGTH, line=b"POST /v1/chat/completions HTTP/1.0") + CHUNKS + POISON, REFUSED),
    "HTTP/1.2": (_line(b"POST /v1/chat/completions HTTP/1.2"), REFUSED),
    "HTTP/2.0 named": (_line(b"POST /v1/chat/completions HTTP/2.0"), CUT),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00" + POISON, REFUSED),
    "HTTP/3": (_line(b"POST /v1/chat/completions HTTP/3"), REFUSED),
    "version of two digits": (_line(b"POST /v1/chat/completions HTTP/1.10"), REFUSED),
    "version with a leading zero": (_line(b"POST /v1/chat/completions HTTP/01.1"), REFUSED),
    "version with a suffix": (_line(b"POST /v1/chat/completions HTTP/1.1x"), REFUSED),
    "version in lower case": (_line(b"POST /v1/chat/completions http/1.1"), REFUSED),
    "another protocol": (_line(b"POST /v1/chat/completions RTSP/1.0"), CUT),
    "another protocol of that shape": (_line(b"POST /v1/chat/completions ICE/1.0"), REFUSED),
    # fields
    "NUL in a value": (head(b"X-Other: y\x00z", LENGTH) + CHAT + POISON, REFUSED),
    "NUL in a name": (head(b"X-Ot\x00her: y", LENGTH) + CHAT + POISON, REFUSED),
    "control character in a value": (head(b"X-Other: y\x01z", LENGTH) + CHAT + POISON, REFUSED),
    "empty name": (head(b": y", LENGTH) + CHAT + POISON, REFUSED),
    "name in brackets": (head(b"X(Other): y", LENGTH) + CHAT + POISON, REFUSED),
    "name with a high byte": (head(b"X-\xc3\xa9: y", LENGTH) + CHAT + POISON, REFUSED),
    "name with a space": (head(b"X Other: y", LENGTH) + CHAT + POISON, REFUSED),
    "line without colon": (head(b"X-Other", LENGTH) + CHAT + POISON, REFUSED),
    "folded": (head(b"X-Other: y\r\n z", LENGTH) + CHAT + POISON, REFUSED),
    "folded by a tab": (head(b"X-Other: y\r\n\tz", LENGTH) + CHAT + POISON, REFUSED),
    "request line as a field": (head(b"POST /completion HTTP/1.1", LENGTH) + CHAT + POISON, REFUSED),
    "Host twice": (head(LENGTH, host=_FORBIDDEN_HOST) + CHAT + POISON, REFUSED),
    "Host absent": (head(LENGTH, host=b"X-Other: y") + CHAT + POISON, REFUSED),
    "Host with a space before colon": (head(LENGTH, host=b"Host : 127.0.0.1") + CHAT + POISON, REFUSED),
    "Host folded": (head(LENGTH, host=b"Host:\r\n 127.0.0.1") + CHAT + POISON, REFUSED),
    "Host in a list": (head(LENGTH, host=b"Host: 127.0.0.1, elsewhere") + CHAT + POISON, SERVED),
    "Authorization twice": (head(b"Authorization: Bearer x", LENGTH) + CHAT + POISON, REFUSED),
    "another method by field": (head(b"X-HTTP-Method-Override: GET", LENGTH) + CHAT + POISON, SERVED),
    "another path by field": (head(b"X-Original-URL: /completion", LENGTH) + CHAT + POISON, SERVED),
    "Connection names the key": (head(b"Connection: keep-alive, Authorization", LENGTH) + CHAT + POISON, SERVED),
    # bodies where none is looked for
    "GET with the poison as body": (
        head(b"Content-Length: %d" % len(POISON), line=b"GET /v1/models HTTP/1.1") + POISON, "200"),
    "GET with the poison in chunks": (
        head(CHUNKED, line=b"GET /v1/models HTTP/1.1") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(POISON), POISON), "200"),
    "HEAD with the poison as body": (
        head(b"Content-Length: %d" % len(POISON), line=b"HEAD /v1/models HTTP/1.1") + POISON, "200"),
    "health with the poison as body": (
        head(b"Content-Length: %d" % len(POISON), line=b"GET /health HTTP/1.1") + POISON, "200"),
    "OPTIONS with the poison as body": (
        head(b"Content-Length: %d" % len(POISON), line=b"OPTIONS /v1/chat/completions HTTP/1.1") + POISON, "405"),
    "refused with the poison as body": (
        head(b"Content-Length: %d" % len(POISON), line=b"POST /nowhere HTTP/1.1") + POISON, "404"),
    "poison as body": (head(b"Content-Length: %d" % len(POISON)) + POISON, REFUSED),
    # asking before sending, and asking for another protocol
    "Expect": (head(LENGTH, b"Expect: 100-continue") + CHAT + POISON, SERVED),
    "Expect and chunks": (head(CHUNKED, b"Expect: 100-continue") + CHUNKS + POISON, SERVED),
    "Expect twice": (head(LENGTH, b"Expect: 100-continue\r\nExpect: x") + CHAT + POISON, REFUSED),
    "Expect in a list": (head(LENGTH, b"Expect: x, 100-continue") + CHAT + POISON, SERVED),
    "Expect of something else": (head(LENGTH, b"Expect: x 100-continue") + CHAT + POISON, SERVED),
    "Expect folded": (head(LENGTH, b"Expect:\r\n 100-continue") + CHAT + POISON, REFUSED),
    "Expect on a GET": (
        head(b"Content-Length: %d" % len(POISON), b"Expect: 100-continue", line=b"GET /v1/models HTTP/1.1") + POISON,
        "200"),
    "Expect on what is refused": (
        head(LENGTH, b"Expect: 100-continue", line=b"POST /nowhere HTTP/1.1") + CHAT + POISON, "404"),
    "h2c": (
        head(LENGTH, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
        + CHAT + POISON, REFUSED),
    "h2c without its settings": (head(LENGTH, b"Connection: Upgrade", b"Upgrade: h2c") + CHAT + POISON, REFUSED),
    "h2c not named by Connection": (head(LENGTH, b"Upgrade: h2c") + CHAT + POISON, SERVED),
    "h2c on a GET": (
        head(b"Connection: Upgrade", b"Upgrade: h2c", line=b"GET /v1/models HTTP/1.1") + POISON, REFUSED),
    "websocket": (
        head(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
             b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", line=b"GET /v1/models HTTP/1.1") + POISON, REFUSED),
    "websocket of a wrong version": (
        head(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 777",
             line=b"GET /v1/models HTTP/1.1") + POISON, REFUSED),
    # what is sent ahead
    "poison sent ahead": (_CHAT + POISON, SERVED),
    "poison sent ahead of the chat": (POISON + _CHAT, "401"),
    "start of a request sent ahead": (_CHAT + b"POST /completion HTTP/1.1\r\nX-Other: ", "200 408"),
    "start of a body sent ahead": (_CHAT + POISON[:-5], SERVED),
    "half a line end sent ahead": (_CHAT + b"\r", "200"),
    "chat cut in its body, poison as the rest": (head(LENGTH) + CHAT[:20] + POISON, TWICE_REFUSED),
    "nothing but the poison's end": (_CHAT + _POISON_BODY, CUT),
}  # fmt: skip


def _others() -> Iterator[Trick]:
    for name, (raw, transcript) in OTHERS.items():
        yield Trick(name, raw, transcript)


TRICKS: tuple[Trick, ...] = (*_codings(), *_lengths(), *_chunkings(), *_others())
