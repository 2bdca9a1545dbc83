"""A dialect as a table of exact paths."""

from collections.abc import Iterable

from corral.dialects.model import Counter, ErrorStyle, Form, Route, RouteClass


def route(
    name: str,
    kind: RouteClass,
    method: str,
    *paths: str,
    form: Form | None = None,
    errors: ErrorStyle = ErrorStyle.OPENAI,
    counter: Counter | None = None,
    place: bool | None = None,
) -> tuple[Route, tuple[bytes, ...]]:
    """Describe a route and its aliases; the first path is what the server is sent.

    `place` says whether it keeps a slot busy; None: as its kind does, which inference and embeddings do.
    """
    encoded = tuple(path.encode() for path in paths)
    needs_place = kind in (RouteClass.INFERENCE, RouteClass.EMBEDDING) if place is None else place
    return Route(name, kind, method.encode(), encoded[0], form, errors, needs_place, counter), encoded


class TableDialect:
    """Finds routes by exact method and path. What is not in the table is unknown, however alike it looks.

    `slots` is how many requests every such server works on at once, None where that differs; `slots_path` what is
    asked for it, where they say so themselves, as JSON with `total_slots`. `asks_for_keys` says that such servers may
    demand a key: what they answer with 401 is the guard's own fault then.
    """

    def __init__(
        self,
        name: str,
        routes: Iterable[tuple[Route, tuple[bytes, ...]]],
        *,
        slots: int | None = None,
        slots_path: bytes = b"",
        asks_for_keys: bool = True,
    ) -> None:
        self.name = name
        self.slots = slots
        self.slots_path = slots_path
        self.asks_for_keys = asks_for_keys
        self._routes: dict[tuple[bytes, bytes], Route] = {}
        for described, paths in routes:
            for path in paths:
                if (described.method, path) in self._routes:
                    raise ValueError(f"{name}: {described.method.decode()} {path.decode()} stands twice in the table")
                self._routes[described.method, path] = described

    @property
    def health_path(self) -> bytes:
        """Where the server itself is asked whether it is well."""
        return next((found.path for found in self._routes.values() if found.kind is RouteClass.HEALTH), b"/health")

    def match(self, method: bytes, path: bytes) -> Route | None:
        """Find a route; see `Dialect.match`."""
        return self._routes.get((method, path))

    def allowed(self, path: bytes) -> tuple[bytes, ...]:
        """List the methods of a path; see `Dialect.allowed`."""
        return tuple(sorted(method for method, known in self._routes if known == path))

    def routes(self) -> tuple[tuple[bytes, bytes, Route], ...]:
        """List every (method, path, route), for documentation and tests."""
        return tuple((method, path, found) for (method, path), found in self._routes.items())
