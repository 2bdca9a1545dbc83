"""A guard that takes another policy while it serves: whole or not at all, and nothing that runs is lost."""

import asyncio
import re
import socket
import ssl
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from corral.errors import CorralError, PolicyError
from corral.guard.metrics import Metrics
from corral.guard.reload import NOWHERE, Origin, Reloader, Voice
from corral.guard.tokens.tokens import Tokens
from corral.policy.changes import RestartError
from corral.policy.model import (
    Bounds,
    Concurrency,
    Credentials,
    Generation,
    Identity,
    Jwt,
    LimitRule,
    Listen,
    Plan,
    Policy,
    Quota,
    Upstream,
)
from corral.policy.model import Budgets as BudgetSettings
from running_guard import CHAT, RunningGuard, answer, api_key, post, read_all

BEARER = "Authorization: Bearer {}\r\n"


def limited(amount: int, *, unit: str = "requests", **more) -> Policy:
    rule = LimitRule(name="client", quota=Quota(amount, 3600.0, unit), algorithm="window")
    return Policy(**{"auth": "none", "limits": (rule,), **more})


def reload(guard: RunningGuard, policy: Policy) -> None:
    """Reload, with the addresses that the guard was given."""
    now = guard.guard.policy
    listen = replace(policy.listen, address=now.listen.address)
    guard.call(
        guard.guard.reload(replace(policy, listen=listen, upstream=replace(policy.upstream, url=now.upstream.url)))
    )


def status(raw: bytes) -> int:
    return int(raw.split(b" ", 2)[1])


def header(raw: bytes, name: str) -> str:
    found = re.search(rf"(?mi)^{name}: (.*)\r$", raw.partition(b"\r\n\r\n")[0].decode() + "\r\n")
    return found.group(1) if found else ""


class Held:
    """A server that answers when it is let."""

    def __init__(self) -> None:
        self.events: list[asyncio.Event] = []

    async def __call__(self, seen, writer) -> None:
        event = asyncio.Event()
        self.events.append(event)
        await event.wait()
        writer.write(answer(CHAT))

    def waits(self, guard: RunningGuard, count: int) -> None:
        """Wait until `count` requests have come so far."""

        async def look() -> None:
            while len(self.events) < count:
                await asyncio.sleep(0.005)

        guard.call(look())

    def release(self, guard: RunningGuard) -> None:
        for event in self.events:
            guard.loop.call_soon_threadsafe(event.set)


def test_counts_are_kept_and_the_new_amount_counts(start_guard):
    guard = start_guard(policy=limited(3))
    assert [status(guard.exchange()) for _ in range(4)] == [200, 200, 200, 429]
    reload(guard, limited(5))
    assert [status(guard.exchange()) for _ in range(3)] == [200, 200, 429]
    assert "q=5" in header(guard.exchange(), "RateLimit-Policy")


def test_a_connection_that_stays_open_follows(start_guard):
    guard = start_guard(policy=limited(1))
    with guard.connect() as connection:

        def ask() -> bytes:
            connection.sendall(post({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5000}))
            data = b""
            while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < int(header(data, "Content-Length")):
                data += connection.recv(65536)
            return data

        assert header(ask(), "X-Corral-Max-Tokens") == "2048"
        assert status(ask()) == 429
        reload(guard, limited(2, generation=Generation(max_tokens=7)))
        assert header(ask(), "X-Corral-Max-Tokens") == "7"
        reload(guard, limited(9, bounds=Bounds(max_body=16)))
        assert status(ask()) == 413


def test_keys_come_and_go_on_open_connections(start_guard):
    keys = Policy(auth="keys", keys=(api_key("a", "a"), api_key("b", "b")))
    guard = start_guard(policy=keys)
    request = post({"messages": [{"role": "user", "content": "hi"}]}, headers=BEARER.format("a"))
    with guard.connect() as connection:
        connection.sendall(request)
        assert status(connection.recv(65536)) == 200
        reload(guard, replace(keys, keys=(api_key("b", "b"),)))
        connection.sendall(request)
        assert status(connection.recv(65536)) == 401
    assert status(guard.exchange(headers=BEARER.format("b"))) == 200


def test_what_runs_ends_by_the_policy_that_it_entered_and_counts_in_the_new_one(start_guard):
    held = Held()
    plan = {"gold": Plan(limits=(LimitRule(name="gold", quota=Quota(1000, 3600.0, "tokens")),))}
    key = replace(api_key("a", "a"), plan="gold")
    limit = LimitRule(name="tokens", quota=Quota(10_000, 3600.0, "tokens"), per="everyone")
    before = Policy(auth="keys", keys=(key,), plan=plan, limits=(limit,))
    guard = start_guard(held, before)
    with guard.connect() as connection:
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}
        connection.sendall(post(body, headers=BEARER.format("a") + "Connection: close\r\n"))
        held.waits(guard, 1)
        raised = replace(limit, quota=Quota(20_000, 3600.0, "tokens"))
        reload(guard, Policy(auth="keys", keys=(api_key("a", "a"),), limits=(raised,)))
        store = guard.guard._built.store
        assert store.held == 1  # the plan's limit is gone, everyone's went on
        held.release(guard)
        assert status(read_all(connection)) == 200
    guard.settled(1)
    assert store.held == 0
    (standing,) = store.peek(store.bind(("everyone",)), guard.loop.time())
    assert standing.remaining == 20_000 - 8  # CHAT's usage


def test_a_body_that_arrives_after_a_reload_is_judged_by_the_policy_that_its_head_entered(start_guard):
    guard = start_guard(policy=limited(10_000, unit="tokens"))
    request = post({"messages": [{"role": "user", "content": "hi"}]}, headers="Connection: close\r\n")
    with guard.connect() as connection:
        connection.sendall(request[:-5])

        async def begun() -> None:
            while not any(c._visit is not None for c in guard.guard._listener._connections):
                await asyncio.sleep(0.005)

        guard.call(begun())
        reload(guard, limited(20_000, unit="tokens", generation=Generation(max_tokens=3)))
        connection.sendall(request[-5:])
        raw = read_all(connection)
    assert (status(raw), header(raw, "X-Corral-Max-Tokens")) == (200, "2048")
    assert b'"max_tokens":2048' in guard.server.seen[-1].body
    guard.settled(1)
    assert guard.guard._built.store.held == 0
    assert header(guard.exchange(), "x-ratelimit-limit-tokens") == "20000"


def test_more_places_start_who_waits_and_fewer_lose_nobody(start_guard):
    held = Held()
    guard = start_guard(held, limited(1000, concurrency=Concurrency(max_running=1)))
    connections = [guard.connect() for _ in range(6)]
    for connection in connections:
        connection.sendall(post({"messages": [{"role": "user", "content": "hi"}]}, headers="Connection: close\r\n"))
    held.waits(guard, 1)
    reload(guard, limited(1000, concurrency=Concurrency(max_running=3)))
    held.waits(guard, 3)
    reload(guard, limited(1000, concurrency=Concurrency(max_running=1, max_waiting=0)))
    assert guard.guard.running == 3

    async def let_go() -> None:
        for index in range(6):
            while len(held.events) <= index:
                await asyncio.sleep(0.005)
            held.events[index].set()

    guard.call(let_go())
    assert [status(read_all(connection)) for connection in connections] == [200] * 6
    for connection in connections:
        connection.close()


def test_reloads_under_load_lose_no_request(start_guard):
    guard = start_guard(policy=limited(100_000))

    async def ask(reader, writer) -> int:
        writer.write(post({"messages": [{"role": "user", "content": "hi"}]}))
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(header(head, "Content-Length")))
        return status(head)

    async def client() -> list[int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", guard.port)
        seen = [await ask(reader, writer) for _ in range(40)]
        writer.close()
        return seen

    async def load() -> list[list[int]]:
        return await asyncio.gather(*(client() for _ in range(8)))

    work = asyncio.run_coroutine_threadsafe(load(), guard.loop)
    reloads = 0
    while not work.done():
        reload(guard, limited(100_000 + reloads, concurrency=Concurrency(max_running=1 + reloads % 4)))
        reloads += 1
    assert work.result() == [[200] * 40] * 8
    assert reloads
    raw = guard.exchange()
    used = int(header(raw, "X-RateLimit-Limit")) - int(header(raw, "X-RateLimit-Remaining"))
    assert used == 321


def test_an_answer_from_before_does_not_say_how_the_limit_stands_now(start_guard):
    go_on = asyncio.Event()

    async def handle(seen, writer):
        if b"slow" in seen.body:
            await go_on.wait()
        writer.write(answer(CHAT))

    guard = start_guard(handle, policy=limited(100))
    with guard.connect() as slow:
        slow.sendall(post({"messages": [{"role": "user", "content": "slow"}]}))
        while not guard.server.seen:
            time.sleep(0.01)
        reload(guard, limited(101))
        guard.loop.call_soon_threadsafe(go_on.set)
        before = slow.recv(65536)
    after = guard.exchange()
    assert [header(raw, "X-RateLimit-Remaining") for raw in (before, after)] == ["99", "99"]
    assert [header(raw, "X-RateLimit-Limit") for raw in (before, after)] == ["100", "101"]


def test_a_failed_login_counts_on(start_guard):
    policy = Policy(auth="keys", keys=(api_key("a", "a"),), max_failed_logins=Quota(2, 3600.0))
    guard = start_guard(policy=policy)
    wrong = BEARER.format("wrong")
    assert [status(guard.exchange(headers=wrong)) for _ in range(3)] == [401, 401, 429]
    reload(guard, replace(policy, max_failed_logins=Quota(3, 3600.0)))
    assert [status(guard.exchange(headers=wrong)) for _ in range(2)] == [401, 429]


def test_who_is_counted_may_change_on_open_connections(start_guard):
    guard = start_guard(policy=limited(1))
    body = {"messages": [{"role": "user", "content": "hi"}]}
    with guard.connect() as connection:
        for proxies, sent, expected in (
            ((), "1.1.1.1", 200), ((), "2.2.2.2", 429), (("127.0.0.0/8",), "1.1.1.1", 200),
            (("127.0.0.0/8",), "1.1.1.1", 429), (("127.0.0.0/8",), "2.2.2.2", 200),
        ):  # fmt: skip
            reload(guard, limited(1, identity=Identity(trusted_proxies=proxies)))
            connection.sendall(post(body, headers=f"X-Forwarded-For: {sent}\r\n"))
            assert status(connection.recv(65536)) == expected
    assert guard.guard.connections == 0 or guard.call(_closed(guard)) is None
    assert not guard.guard._listener._by_address


async def _closed(guard: RunningGuard) -> None:
    while guard.guard.connections:
        await asyncio.sleep(0.005)


def test_a_budget_goes_on_and_its_file_with_it(start_guard, tmp_path: Path):
    def daily(amount: int) -> Policy:
        rule = LimitRule(name="daily", quota=Quota(amount, 86_400.0, "tokens", period="day"), per="everyone")
        return Policy(auth="none", limits=(rule,), budgets=BudgetSettings(store=str(tmp_path / "budgets.db")))

    def left(guard: RunningGuard) -> int:
        store = guard.guard._built.store
        return store.peek(store.bind(("everyone",)), guard.loop.time())[0].remaining

    guard = start_guard(policy=daily(10_000))
    assert status(guard.exchange()) == 200
    guard.settled(1)
    reload(guard, daily(20_000))
    assert left(guard) == 20_000 - 8  # CHAT's usage
    assert status(guard.exchange()) == 200
    guard.settled(2)
    guard.call(guard.guard.stop(0))
    again = start_guard(policy=daily(30_000))
    assert status(again.exchange()) == 200
    again.settled(1)
    assert left(again) == 30_000 - 3 * 8


def test_another_file_of_budgets_is_told_all_that_was_spent(start_guard, tmp_path: Path):
    rule = LimitRule(name="daily", quota=Quota(100, 86_400.0, "tokens", period="day"))
    policy = Policy(auth="none", limits=(rule,), budgets=BudgetSettings(store=str(tmp_path / "first.db")))
    guard = start_guard(policy=policy)
    guard.exchange()
    reload(guard, replace(policy, budgets=BudgetSettings(store=str(tmp_path / "second.db"))))
    guard.call(guard.guard.stop(0))
    again = start_guard(policy=replace(policy, budgets=BudgetSettings(store=str(tmp_path / "second.db"))))
    (standing,) = again.guard.store.peek(again.guard.store.bind(("127.0.0.1",)), again.loop.time())
    assert standing.remaining == 92


def test_what_runs_at_once_is_counted_on(start_guard):
    held = Held()

    def at_once(amount: int) -> Policy:
        rule = LimitRule(name="at-once", quota=Quota(amount, 0.0, "concurrent requests"), per="everyone")
        return Policy(auth="none", limits=(rule,))

    guard = start_guard(held, at_once(2))
    with guard.connect() as connection:
        connection.sendall(post({"messages": [{"role": "user", "content": "hi"}]}, headers="Connection: close\r\n"))
        held.waits(guard, 1)
        reload(guard, at_once(1))
        assert status(guard.exchange()) == 429
        held.release(guard)
        assert status(read_all(connection)) == 200
    guard.settled(2)
    assert guard.guard._built.store.held == 0


@pytest.mark.parametrize(
    "wrong",
    [
        Policy(auth="keys", keys=(api_key("a", "a"),), credentials=Credentials(store=__file__)),
        Policy(auth="keys", jwt=Jwt(secret_file="/nowhere/secret")),
        Policy(auth="keys", keys=(), listen=Listen(tls_certificate="/nowhere/cert.pem", tls_key="/nowhere/key.pem")),
        limited(5, upstream=Upstream(dialect="openai")),
    ],
    ids=["store", "jwt", "tls", "dialect"],
)
def test_a_policy_that_cannot_be_used_changes_nothing(start_guard, wrong):
    guard = start_guard(policy=limited(2))
    assert status(guard.exchange()) == 200
    with pytest.raises(CorralError):
        reload(guard, wrong)
    raw = guard.exchange()
    assert (status(raw), header(raw, "X-RateLimit-Remaining")) == (200, "0")
    assert status(guard.exchange()) == 429


def test_what_is_bound_takes_a_restart(start_guard):
    guard = start_guard(policy=limited(2))
    with pytest.raises(RestartError, match=r"listen\.address and upstream\.url have changed"):
        guard.call(guard.guard.reload(limited(3)))


def test_a_renewed_certificate_is_shown_to_new_connections(start_guard, tmp_path: Path):
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)

    def issue() -> None:
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(tmp_path / "key.pem")
        issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")

    def connect() -> ssl.SSLSocket:
        return context.wrap_socket(socket.create_connection(("127.0.0.1", guard.port), 10), server_hostname="127.0.0.1")

    def serial(secured: ssl.SSLSocket) -> str:
        return str(secured.getpeercert()["serialNumber"])

    issue()
    listen = Listen(
        tls_certificate=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "key.pem"), address="127.0.0.1:0"
    )
    policy = limited(100, listen=listen)
    guard = start_guard(policy=policy)
    with connect() as old:
        first = serial(old)
        issue()
        reload(guard, policy)
        with connect() as new:
            second = serial(new)
            assert second != first
        old.sendall(post({"messages": [{"role": "user", "content": "hi"}]}))
        assert status(old.recv(65536)) == 200
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(PolicyError, match="cannot be used"):
        reload(guard, policy)
    with connect() as after:
        assert serial(after) == second


# what reads the policy again


class Told(list[str]):
    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.voice = Voice(self.append, self.complaints.append)


def reloader(tmp_path: Path, told: Told, *, fails: list[Exception]) -> Reloader:
    path = tmp_path / "corral.toml"
    path.write_text("")

    async def apply(policy: Policy) -> None:
        if fails:
            raise fails.pop()

    def read(before: Policy) -> Policy:
        return replace(before, generation=replace(before.generation, max_tokens=before.generation.max_tokens + 1))

    return Reloader(Origin(read, (path,), "corral.toml"), Policy(), apply, told.voice)


def test_what_changed_is_said_and_what_did_not_is_counted(tmp_path: Path) -> None:
    told, metrics = Told(), Metrics()
    subject = reloader(tmp_path, told, fails=[PolicyError("no such thing")])
    subject.register(metrics)

    async def play() -> None:
        refused = await subject.reload()
        assert (refused.error, refused.changed) == ("no such thing", ())
        assert b"corral_policy_stale 1.0" in metrics.exposition()
        assert (await subject.reload()).changed == ("generation.max_tokens",)

    asyncio.run(play())
    assert told == ["Reloaded corral.toml: generation.max_tokens changed."]
    assert told.complaints == ["The policy stays as it was, since corral.toml cannot be used: no such thing"]
    text = metrics.exposition().decode()
    assert 'corral_reloads_total{outcome="applied"} 1.0' in text
    assert 'corral_reloads_total{outcome="invalid"} 1.0' in text
    assert "corral_policy_stale 0.0" in text


def test_a_reload_that_fails_unforeseen_is_told_and_later_ones_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.guard.reload.LOOK", 0.01)
    told, metrics = Told(), Metrics()
    subject = reloader(tmp_path, told, fails=[ValueError("Invalid IPv6 URL")])
    subject.register(metrics)

    async def play() -> None:
        asked = asyncio.Event()
        following = asyncio.get_running_loop().create_task(subject.follow(asked))
        asked.set()
        while not told.complaints and not following.done():
            await asyncio.sleep(0.001)
        assert b"corral_policy_stale 1.0" in metrics.exposition()
        asked.set()
        while not told and not following.done():
            await asyncio.sleep(0.001)
        assert not following.done()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(play())
    assert "failed inside the guard" in told.complaints[0]
    assert b"corral_policy_stale 0.0" in metrics.exposition()


def test_without_a_file_there_is_nothing_to_reload() -> None:
    told = Told()

    async def apply(policy: Policy) -> None:
        raise AssertionError

    async def play() -> None:
        assert "nothing to reload" in (await Reloader(NOWHERE, Policy(), apply, told.voice).reload()).error

    asyncio.run(play())
    assert "--policy FILE" in told.complaints[0]


def test_files_that_are_read_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.guard.reload.LOOK", 0.01)
    told = Told()
    subject = reloader(tmp_path, told, fails=[])

    async def play() -> None:
        following = asyncio.get_running_loop().create_task(subject.follow(asyncio.Event()))
        await asyncio.sleep(0.05)
        assert told == []
        (tmp_path / "corral.toml").write_text("# changed")
        async with asyncio.timeout(10):
            while not told:
                await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(play())
    assert len(told) == 1


def test_what_an_issuer_published_stays_where_it_is_the_same_issuer() -> None:
    jwt = Jwt(jwks_url="http://127.0.0.1:1/keys", issuer="i", audience="a")

    async def play() -> None:
        loop = asyncio.get_running_loop()
        first = Tokens.from_policy(jwt, loop)
        same = Tokens.from_policy(replace(jwt, audience="b"), loop, first)
        assert same._keys is first._keys
        await first.close(same)
        assert not same._fetcher._client.is_closed
        other = Tokens.from_policy(replace(jwt, jwks_url="http://127.0.0.1:2/keys"), loop, same)
        assert other._keys is not same._keys
        await same.close(other)
        assert same._fetcher._client.is_closed
        await other.close()

    asyncio.run(play())
