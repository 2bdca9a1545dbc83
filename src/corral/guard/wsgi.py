"""The guard inside a WSGI application: Flask, Django, or any other."""

import atexit
import os
import threading
from collections.abc import Iterable, Mapping

from corral.errors import CorralError, PolicyError
from corral.guard.app_routes import Unknown
from corral.guard.call import Call
from corral.guard.door import TICK, Door
from corral.guard.door_policy import PolicySource, read_policy
from corral.guard.limit import handlers_of, refuse_unlimited
from corral.guard.metrics import Metrics
from corral.guard.record import RecordSink
from corral.guard.wsgi_exchange import App, Environ, Exchange, StartResponse, Waiters, tell


class Guard:
    """Guards a WSGI application by a policy: `app.wsgi_app = corral.wsgi.Guard(app.wsgi_app, policy="corral.toml")`.

    It decides as `corral.Guard` does, and takes the same arguments. Any number of threads may call it: one lock is
    held around each decision, and who has no place waits on its own thread. A server for WSGI tells nobody that a
    client has left before it next takes a piece of the answer, and bounds the time of a body itself.

    Its state lives in one process: each worker process counts for itself.

    Raises:
        PolicyError: the policy is wrong.
        UsageError: `unknown` or `routes` is.

    """

    def __init__(
        self,
        app: App,
        policy: PolicySource = None,
        *,
        unknown: Unknown = "limit",
        routes: Mapping[str, str] | None = None,
        records: RecordSink | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._app = app
        settled = read_policy(policy, os.environ)
        if settled.jwt.jwks_url is not None:
            raise PolicyError("jwt.jwks_url needs an event loop to fetch keys with: use corral.Guard, or a public_key.")
        self._waiters: Waiters = {}
        self._lock = threading.Lock()
        self._door = Door(
            settled, unknown=unknown, routes=routes, records=records, metrics=metrics, has_place=self._has_place
        )
        self._starting = threading.Lock()
        self._ready = threading.Event()
        self._ended = threading.Event()
        self._ticker: threading.Thread | None = None
        self._failure: CorralError | None = None

    @property
    def running(self) -> int:
        """How many requests have a place."""
        return self._door.admission.running

    @property
    def waiting(self) -> int:
        """How many requests wait for a place."""
        return self._door.admission.waiting

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request, as WSGI wants it."""
        self._start()
        return Exchange(self._door, self._lock, self._waiters, start_response).run(self._app, environ)

    def close(self) -> None:
        """Write what is left of the log, and stop following the key store. To be called once nobody is served."""
        self._ended.set()
        if self._ticker is not None:
            self._ticker.join(2.0)
        with self._lock:
            self._door.close_log()

    def _start(self) -> None:
        """Begin with the first request: a thread that was started earlier would be lost to a fork."""
        if self._ready.is_set() and self._failure is None:
            return
        with self._starting:
            if self._ticker is None:
                refuse_unlimited(handlers_of(getattr(self._app, "__self__", self._app)))
                self._ticker = threading.Thread(target=self._tick, name="corral-guard", daemon=True)
                self._ticker.start()
                atexit.register(self.close)
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def _tick(self) -> None:
        """Follow the clock and the key store, on one thread: SQLite wants it so."""
        try:
            with self._lock:
                self._door.start()
        except CorralError as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        while not self._ended.wait(TICK):
            with self._lock:
                tell(self._waiters, self._door.tick())

    def _has_place(self, call: Call) -> None:
        tell(self._waiters, [call], has_place=True)
