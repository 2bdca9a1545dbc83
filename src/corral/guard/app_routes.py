"""The routes of an application as its guard sees them: the dialect's, its own names for them, and all others."""

from collections.abc import Mapping
from typing import Literal

from corral.dialects.model import ErrorStyle, Route, RouteClass
from corral.dialects.table import TableDialect
from corral.errors import UsageError

Unknown = Literal["pass", "limit", "deny"]
"""What happens on paths that the dialect does not know."""

UNKNOWN: tuple[Unknown, ...] = ("pass", "limit", "deny")

APP = Route("app", RouteClass.STATIC, b"", b"", None, ErrorStyle.OPENAI)
"""Whatever the application serves besides what the dialect knows: counted, but not read."""


class AppRoutes:
    """A dialect for one application.

    `own` maps paths of the application to names of the dialect's routes. With `unknown` other than "deny", what is
    not known is `APP`.
    """

    def __init__(self, dialect: TableDialect, own: Mapping[str, str], unknown: Unknown) -> None:
        if unknown not in UNKNOWN:
            raise UsageError(f'unknown={unknown!r} is not known: write "pass", "limit" or "deny".')
        self.name = dialect.name
        self._dialect = dialect
        self._open = unknown != "deny"
        by_name = {route.name: route for _, _, route in dialect.routes()}
        self._own: dict[tuple[bytes, bytes], Route] = {}
        for path, name in own.items():
            if name not in by_name:
                known = ", ".join(sorted(by_name))
                raise UsageError(f'routes: {path}: "{name}" is no route of {dialect.name}. Known: {known}.')
            self._own[by_name[name].method, path.encode()] = by_name[name]

    def match(self, method: bytes, path: bytes) -> Route | None:
        """Find the route of an exact path; see `Dialect.match`. HEAD is the GET that it asks the head of."""
        for spelled in (method, b"GET") if method == b"HEAD" else (method,):
            route = self._own.get((spelled, path)) or self._dialect.match(spelled, path)
            if route is not None:
                return route
        return APP if self._open else None

    def allowed(self, path: bytes) -> tuple[bytes, ...]:
        """List the methods of a path; see `Dialect.allowed`."""
        own = (method for method, known in self._own if known == path)
        return tuple(sorted({*own, *self._dialect.allowed(path)}))
