"""One request to a WSGI application: its body, its wait for a place, the application's answer, and its end."""

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any

from corral.engine.admission import Refused, Waiting
from corral.guard.call import CURRENT, Call
from corral.guard.door import Door
from corral.guard.refusal import Refusal

_DISCARD = 64 * 1024
"""How much of a refused request's body is read over, in bytes."""

Environ = dict[str, Any]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class Waiter:
    """A thread that waits for a place: `told` is set once there is one, or once there will be none."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self.has_place = False


Waiters = dict[Call, Waiter]


def tell(waiters: Waiters, calls: Iterable[Call], *, has_place: bool = False) -> None:
    """Wake who waits for a place. Who has just given up is not there any more, and frees its place itself."""
    for call in calls:
        waiter = waiters.get(call)
        if waiter is not None:
            waiter.has_place = has_place
            waiter.told.set()


class Exchange:
    """A request between the server and the application. `lock` is held around every decision, and never for long."""

    def __init__(self, door: Door, lock: threading.Lock, waiters: Waiters, start_response: StartResponse) -> None:
        self._door = door
        self._lock = lock
        self._waiters = waiters
        self._start_response = start_response
        self._begun = False
        self.replaced: bytes | None = None
        self._call: Call

    def run(self, app: App, environ: Environ) -> Iterable[bytes]:
        """Serve the request, or refuse it."""
        door = self._door
        host = environ.get("REMOTE_ADDR") or ""
        with self._lock:
            call = self._call = door.open(
                environ["REQUEST_METHOD"].encode("latin-1"),
                environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace"),
                environ.get("QUERY_STRING", "").encode("latin-1"),
                _fields(environ),
                host,
                http10=environ.get("SERVER_PROTOCOL") == "HTTP/1.0",
            )
            verdict = door.enter(call, host)
        try:
            if isinstance(verdict, Refusal):
                return self._refuse_unread(verdict, environ)
            if verdict is not None:
                body = self._read_body(environ, whole=verdict.route.form is not None)
                if body is not None and verdict.route.form is not None:
                    body = self._prepare(body) if isinstance(body, bytes) else body
                if isinstance(body, Refusal):
                    return self._refuse_unread(body, environ)
                if body is not None:
                    environ = _with_body(environ, body, prepared=verdict.route.form is not None)
                refusal = self._ask_for_place() if verdict.needs_place else None
                if refusal is not None:
                    return self._refuse(refusal)
            return self._serve(app, environ)
        except BaseException:
            self._finish("upstream-failed", 500)
            raise

    def _read_body(self, environ: Environ, *, whole: bool) -> bytes | Refusal | None:
        """Read the body; None where the application may read it itself, since its length is known to be in bounds."""
        most = self._door.policy.bounds.max_body
        length = self._call.incoming.content_length()
        chunked = not length and environ.get("wsgi.input_terminated", False)
        if not (whole or chunked):
            self._call.bytes_in = length
            return None
        stream = environ["wsgi.input"]
        body: bytes = stream.read(most + 1) if chunked else stream.read(length) if length else b""
        self._call.bytes_in = len(body)
        return self._door.too_large(self._call) if len(body) > most else body

    def _prepare(self, body: bytes) -> bytes | Refusal:
        """Judge the body: it may hold tokens, which no two threads may do at once."""
        with self._lock:
            return self._door.prepare(self._call, body)

    def _ask_for_place(self) -> Refusal | None:
        """Wait for a place, as long as the policy has it; a refusal where there is none."""
        call, door = self._call, self._door
        with self._lock:
            outcome = door.ask_for_place(call)
            if isinstance(outcome, Refused):
                return door.no_place(call, outcome.retry_after)
            if isinstance(outcome, Waiting):
                waiter = self._waiters[call] = Waiter()
                tell(self._waiters, outcome.displaced)
        if isinstance(outcome, Waiting):
            told = waiter.told.wait(door.policy.concurrency.max_wait)
            with self._lock:
                del self._waiters[call]
                if not waiter.has_place:
                    call.overdue = call.overdue or not told
                    return door.no_place(call, door.admission.expected_wait())
        call.place_at = door.now()
        return None

    def _serve(self, app: App, environ: Environ) -> Iterable[bytes]:
        """Run the application. Where a limit of its own refuses, the answer is 429 whatever it makes of that."""
        token = CURRENT.set(self._call)
        try:
            answer = app(environ, self._begin)
        except Exception:
            if self.refused_instead():
                return [self.replaced or b""]
            raise
        finally:
            CURRENT.reset(token)
        return _Answer(self, answer)

    def _begin(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Write:
        """Begin the answer, with the guard's headers: the `start_response` that the application is given."""
        if self.refused_instead():
            return lambda _: None
        call = self._call
        self._begun = True
        call.status = int(status[:3])
        call.first_byte = call.first_byte or self._door.now()
        if call.usage is not None:
            kind = next((value for name, value in headers if name.lower() == "content-type"), "")
            call.usage.began(call.status, kind.encode("latin-1"))
        with self._lock:
            own = _decoded(self._door.answers.headers(call))
        names = {name for name, _ in own}
        kept = [(name, value) for name, value in headers if name.lower() not in names]
        write = self._start_response(status, [*kept, *own], *(() if exc_info is None else (exc_info,)))

        def counting(data: bytes) -> None:
            self.take(data)
            write(data)

        return counting

    def _refuse_unread(self, refusal: Refusal, environ: Environ) -> list[bytes]:
        """Refuse, and read over what is left of a short body: a server that closes over it resets the answer away."""
        call = self._call
        left = call.incoming.content_length() - call.bytes_in
        if not call.incoming.content_length() and environ.get("wsgi.input_terminated", False):
            left = _DISCARD
        if 0 < left <= _DISCARD:
            environ["wsgi.input"].read(left)
        return self._refuse(refusal)

    def _refuse(self, refusal: Refusal) -> list[bytes]:
        with self._lock:
            status, headers, body = self._door.render(self._call, refusal)
        self.replaced = body
        self._start_response(f"{status} {_reason(status)}", _decoded(headers))
        return [body]

    # what the answer asks for

    def refused_instead(self) -> bool:
        """Refuse the request if a limit of the application's own said so in time; tells whether it was refused."""
        if self.replaced is None and self._call.over is not None and not self._begun:
            self._refuse(self._call.over)
        return self.replaced is not None

    def next_of(self, answer: Iterator[bytes]) -> bytes:
        """Ask the application for the next piece of its answer. Raises StopIteration at its end."""
        token = CURRENT.set(self._call)
        try:
            return next(answer)
        finally:
            CURRENT.reset(token)

    def take(self, data: bytes) -> None:
        """Take note of a piece of the answer."""
        if self._call.usage is not None:
            self._call.usage.take(data)

    def end(self, ending: str) -> None:
        """End the request, unless it has ended."""
        self._finish(ending, self._call.status)

    def _finish(self, ending: str, status: int) -> None:
        with self._lock:
            if not self._call.ended:
                self._call.status = self._call.status or status
                self._door.finish(self._call, ending)


class _Answer:
    """The application's answer on its way to the server, which calls `close` on every path (PEP 3333)."""

    def __init__(self, exchange: Exchange, answer: Iterable[bytes]) -> None:
        self._exchange = exchange
        self._answer = answer
        self._pieces: Iterator[bytes] | None = None
        self._over = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._over:
            raise StopIteration
        exchange = self._exchange
        try:
            if self._pieces is None:
                self._pieces = iter(self._answer)
            piece = exchange.next_of(self._pieces)
        except StopIteration:
            self._over = True
            if exchange.refused_instead():
                return exchange.replaced or b""
            exchange.end("answered")
            raise
        except BaseException:
            self._over = True
            if exchange.refused_instead():
                return exchange.replaced or b""
            exchange.end("upstream-failed")
            raise
        if exchange.refused_instead():
            self._over = True
            return exchange.replaced or b""
        exchange.take(piece)
        return piece

    def close(self) -> None:
        """Close the application's answer, and free the place."""
        try:
            close = getattr(self._answer, "close", None)
            if close is not None:
                close()
        finally:
            self._exchange.end("answered" if self._over else "client-left")


def _fields(environ: Environ) -> Iterator[tuple[bytes, bytes]]:
    """List the request's header fields."""
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            yield name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1")
        elif name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            yield name.replace("_", "-").lower().encode("latin-1"), value.encode("latin-1")


def _with_body(environ: Environ, body: bytes, *, prepared: bool) -> Environ:
    """Give the application `body`; where it was `prepared`, no other reading of the request either."""
    environ = {name: value for name, value in environ.items() if name != "HTTP_TRANSFER_ENCODING"}
    environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)), "wsgi.input_terminated": True}
    if prepared:
        environ |= {"CONTENT_TYPE": "application/json", "QUERY_STRING": ""}
        environ.pop("HTTP_CONTENT_ENCODING", None)
    return environ


def _decoded(headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _reason(status: int) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Refused"
