"""A proxy's connection: each request on it is a question about another request, which the proxy relays itself."""

from typing import TYPE_CHECKING, Final

from corral.dialects.model import ErrorStyle
from corral.guard.authz.answers import admitted, for_nginx
from corral.guard.authz.original import Original, asked_by_nginx, read_original
from corral.guard.body_check import refuse_pages_body
from corral.guard.caller import Visit
from corral.guard.credentials import Credential
from corral.guard.gateway.connection import ClientConnection
from corral.guard.gateway.incoming import Incoming
from corral.guard.identity import Identity
from corral.guard.record import Finished
from corral.guard.refusal import Refusal
from corral.guard.shadow import logged

if TYPE_CHECKING:
    from corral.guard.gateway.core import Core
    from corral.guard.gateway.listener import Listener

_OPENAI: Final = ErrorStyle.OPENAI


class AuthzConnection(ClientConnection):
    """Answers a proxy's questions, whether a request may go on.

    Only peers in `proxies` are answered. Whoever else reaches the port could write any client's address into a header,
    guess keys in its name, and use up its quotas.
    """

    def __init__(self, core: "Core", listener: "Listener", proxies: Identity, header: bytes) -> None:
        super().__init__(core, listener)
        self._proxies = proxies
        self._header = header
        self._head: dict[bytes, bytes] | None = None
        self._asked: Original | None = None
        self._judged = False

    def _asks_for_a_page(self, incoming: Incoming) -> bool:  # noqa: ARG002  # the gateway's
        """Say no: preflights are the proxy's to answer, and to ask about like everything else."""
        return False

    def _enter(self, incoming: Incoming, now: float) -> Visit | Refusal:
        """Decide over the request that is asked about, as the gateway would by its head."""
        asked = self._asked
        # Who keeps asking by the same head has it read once: the reader hands out the very same mapping again.
        if asked is None or incoming.head is not self._head:
            outcome = self._read(incoming)
            if type(outcome) is Refusal:
                return outcome
            assert isinstance(outcome, Original)
            asked, self._asked, self._head = outcome, outcome, incoming.head
        self._judged = True
        visit = self._core.pipeline.enter(asked.method, asked.target, incoming.head, self._session, now)
        if type(visit) is not Refusal and b"origin" in incoming.head:
            assert isinstance(visit, Visit)
            if visit.route.form is not None:
                return refuse_pages_body(visit, incoming.head) or visit
        return visit

    def _read(self, incoming: Incoming) -> Original | Refusal:
        self._asked = self._head = None
        if not self._proxies.trusts(self.peer_host):
            return _refusal(
                "forbidden",
                f"This guard answers proxies alone, and {self.peer_host} is none of them: "
                "identity.trusted_proxies names their addresses.",
            )
        outcome = read_original(incoming.method, incoming.target, incoming.head)
        if type(outcome) is Refusal:
            return outcome
        if self._header not in incoming.head:
            return _refusal(
                "invalid_request",
                f"The proxy must send the header {self._header.decode()}, which says whose request it is.",
            )
        if incoming.content_length() or b"transfer-encoding" in incoming.head:
            return _refusal("invalid_request", "The proxy must ask without the request's body, which is not looked at.")
        return outcome

    def complete(self, incoming: Incoming) -> None:
        """Tell the proxy that the request may go on. There is nothing to wait for: a question has no body."""
        visit = self._visit
        if visit is None:
            super().complete(incoming)
            return
        core = self._core
        head = admitted(visit, core.quota_headers, core.date, self._request_id, incoming.target)
        self.write(head + (b"\r\n" if self.keep_alive else b"Connection: close\r\n\r\n"))
        key = visit.caller.key
        self._record(key, visit.caller.address, visit.route.name, 200, shadow=logged(visit.shadow))
        self.exchange_ended(reusable=self.keep_alive)

    def _refuse_and_record(self, incoming: Incoming, refusal: Refusal) -> None:
        if asked_by_nginx(incoming.target):
            core = self._core
            answer = core.refusals.render(refusal, close=not self.keep_alive)
            self.write(for_nginx(answer, core.date, self._request_id, body=not self.head_only))
            status = answer.status
        else:
            status = self.refuse(refusal)
        caller = self._session.caller if self._judged else None
        key = None if caller is None else caller.key
        address = self._session.address if self._judged else self._session.peer
        self._record(key, address, refusal.route, status, refusal)

    def _record(
        self, key: Credential | None, address: str, route: str, status: int, refusal: Refusal | None = None,
        *, shadow: str = "",
    ) -> None:  # fmt: skip
        """Record a decision: under the original's method, and the status that its client is to get."""
        judged, self._judged = self._judged, False
        standing = None if refusal is None else refusal.standing
        core = self._core
        head = self._head if self._head is not None else {}
        core.record(
            Finished(
                at=self._wall,
                request_id=self._request_id,
                client="" if key is None else key.name,
                address=address,
                method=self._asked.method.decode() if judged and self._asked is not None else "",
                route=route,
                status=status,
                refused="" if refusal is None else refusal.kind,
                limit="" if standing is None else standing.name,
                stream=False,
                waited=0.0,
                first_byte=0.0,
                duration=core.now() - self._arrived,
                bytes_in=0,
                bytes_out=0,
                prompt_tokens=-1,
                completion_tokens=-1,
                compute_ms=-1.0,
                ending="answered" if refusal is None else "refused",
                plan="" if key is None else key.plan or "",
                trace=None if core.traces is None else core.traces.begin(head, self.peer_host),
                shadow=shadow,
            )
        )


def _refusal(kind: str, message: str) -> Refusal:
    return Refusal(kind, message, _OPENAI, "unknown")
