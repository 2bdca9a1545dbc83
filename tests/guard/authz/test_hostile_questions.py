"""Who asks in bad faith, or about what is no request, gets nothing; and nobody learns from it who is counted."""

import socket
from dataclasses import replace

import pytest

from asking_proxy import CLIENT, PROXIES, ask, question, read_answer
from corral.dialects import dialect
from corral.guard.identity import Identity as ClientIdentity
from corral.policy.authz import for_authz
from corral.policy.model import Identity, LimitRule, Policy, Quota
from running_guard import api_key, read_all

KEY = "Authorization: Bearer alices-key\r\n"
KEYED = Policy(auth="keys", keys=(api_key("alice", "alices-key"),))
OPEN = Policy(auth="none", limits=(LimitRule(name="address", quota=Quota(1, 60.0), per="address"),))
TELLING = ("nginx", "caddy", "traefik")
METHOD = {"nginx": "X-Original-Method", "caddy": "X-Forwarded-Method", "traefik": "X-Forwarded-Method"}
URI = {"nginx": "X-Original-URI", "caddy": "X-Forwarded-Uri", "traefik": "X-Forwarded-Uri"}


@pytest.fixture
def start(start_guard):
    return lambda policy=KEYED: start_guard(policy=for_authz(policy), authz=True)


def send(guard, raw: bytes):
    return read_answer(guard.send(raw.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)))


def status(answer) -> int:
    """The status that the client is to get."""
    return int(answer.fields.get("x-corral-status", answer.status))


# what the proxies tell


@pytest.mark.parametrize("proxy", TELLING)
@pytest.mark.parametrize("again", ["/health", "/v1/chat/completions"])
def test_a_header_that_tells_the_request_may_come_once(start, proxy, again):
    guard = start()
    for name, value in ((URI[proxy], again), (METHOD[proxy], "POST"), (URI[proxy].lower(), again)):
        for raw in (
            question(proxy, headers=f"{KEY}{name}: {value}\r\n"),
            question(proxy).replace(b"HTTP/1.1\r\n", f"HTTP/1.1\r\n{KEY}{name}: {value}\r\n".encode(), 1),
        ):
            assert status(send(guard, raw)) == 400


@pytest.mark.parametrize("proxy", TELLING)
def test_what_the_other_proxies_would_tell_is_not_read(start, proxy):
    guard = start()
    other = "X-Forwarded-{}" if proxy == "nginx" else "X-Original-{}"
    lies = f"{other.format('Method')}: GET\r\n{other.format('Uri')}: /health\r\n"
    lies += "X-Original-Url: /health\r\nX-Rewrite-Url: /health\r\nX-Http-Method-Override: GET\r\n"
    assert status(ask(guard, proxy, headers=lies)) == 401
    assert status(ask(guard, proxy, "GET", "/slots", headers=KEY + lies)) == 403
    assert status(ask(guard, "envoy", headers=lies)) == 401


@pytest.mark.parametrize("proxy", TELLING)
def test_nothing_is_guessed_where_a_header_is_missing(start, proxy):
    guard = start()
    for name in (URI[proxy], METHOD[proxy], "X-Forwarded-For"):
        lines = question(proxy, headers=KEY).decode().split("\r\n")
        raw = "\r\n".join(line for line in lines if not line.startswith(name + ":")).encode()
        answer = send(guard, raw)
        assert status(answer) == 400
        assert name.lower() in answer.error["message"]


TARGETS = {
    # what is told as the URI: what comes of it, with a key
    "": 400,
    "*": 400,
    "v1/chat/completions": 400,
    "http://example.org/v1/chat/completions": 400,
    "HTTP://example.org/health": 400,
    "/../../health": 404,
    "//v1/chat/completions": 404,
    "/v1//chat/completions": 404,
    "/v1/./chat/completions": 404,
    "/health/../slots": 404,
    "/health/..;/slots": 404,
    "/v1/chat/completions/": 404,
    "/v1/chat/completions%20": 404,
    "/v1/chat/completions%00": 404,
    "/v1/chat%2fcompletions": 404,
    "/%76%31/chat/completions": 404,
    "/V1/chat/completions": 404,
    "/v1/chat/completions;x=1": 404,
    "/v1/chat/completions#fragment": 404,
    "/v1/chat/completions\\": 404,
    "/v1/chat/completions x": 400,
    "/v1/chat/completions HTTP/1.1": 400,
    "/v1/chat/completions\tx": 400,
    "/v1/chat/completions\x7f": 400,
    "/v1/chat/completions\xe9": 400,
    "/v1/chat/completions?" + "x" * 9000: 200,
    "/v1/chat/completions?x=1?y=2": 200,
    "/v1/chat/completions?api%5Fkey=alices-key": 400,
    "/v1/chat/completions?x=1&KEY=alices-key": 400,
    "/v1/chat/completions?": 200,
}


@pytest.mark.parametrize("proxy", TELLING)
def test_what_is_told_is_read_as_the_gateway_reads_a_target(start_guard, start, proxy):
    guard, gateway = start(), start_guard(policy=for_authz(KEYED))
    for number, (uri, expected) in enumerate(TARGETS.items()):
        address = f"192.0.2.{number}"  # what strays is counted
        raw = question(proxy, headers=KEY, address=address).replace(b"/v1/chat/completions", uri.encode("latin-1"), 1)
        assert (uri, status(send(guard, raw))) == (uri, expected)
        own = f"POST {uri} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n{KEY}".encode("latin-1")
        own += f"X-Forwarded-For: {address}\r\n\r\n".encode()
        by_gateway = int(gateway.send(own).split()[1])
        # The gateway gets an empty body where it lets the head pass (400), and knows other forms of a target as no route.
        assert by_gateway == (400 if expected == 200 else 404 if ":" in uri or uri == "*" else expected), uri


@pytest.mark.parametrize("uri", [uri for uri in TARGETS if uri.startswith("/") and uri.isascii() and "\x7f" not in uri])
def test_envoys_paths_are_read_alike(start, uri):
    if " " in uri or "\t" in uri:
        return  # these end a request line, or are no HTTP: see the next test
    assert ask(start(), "envoy", uri=uri, headers=KEY).status == TARGETS[uri]


@pytest.mark.parametrize(
    "target",
    ["/authz/envoy", "/authz/envoyv1/models", "/authz/envoy?/health",
     "/authz/ENVOY/health", "/authz", "/authz/", "/authz/nginx/", "/authz/nginx/health", "/authz/%6eginx", "//authz/nginx",
     "/health", "/v1/models", "/", "http://x/authz/nginx", "/authz/nginx%3f", "/authz/nginx#"],
)  # fmt: skip
def test_only_the_places_where_proxies_ask_are_there(start, target):
    raw = question("nginx", "GET", "/health").replace(b"/authz/nginx", target.encode(), 1)
    assert send(start(), raw).status == 404


@pytest.mark.parametrize(
    "method", ["", "post", "Post", "POST ", "POST\t", "POST\tGET", "PO ST", "GET,POST", "G" * 33, "POST\x00", "\xe9"]
)
@pytest.mark.parametrize("proxy", TELLING)
def test_methods_are_tokens_in_capitals(start, proxy, method):
    raw = question(proxy, headers=KEY).replace(b"POST", method.encode("latin-1"), 1)
    assert status(send(start(), raw)) == 400


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "PATCH", "PROPFIND", "OPTIONS", "HEAD"])
def test_other_methods_are_not_let_through(start, method):
    guard = start()
    for proxy in TELLING:
        assert status(ask(guard, proxy, method, headers=KEY)) == 405


def test_a_request_that_asks_for_an_upgrade_is_refused_as_the_gateway_does(start):
    guard = start()
    upgrade = f"{KEY}Upgrade: websocket\r\nConnection: Upgrade\r\n"
    for proxy in PROXIES:
        raw = question(proxy, "GET", "/v1/models", headers=upgrade)
        answer = read_answer(guard.send(raw))
        assert status(answer) == 400
        assert "upgrades" in answer.error["message"]


# the question itself


@pytest.mark.parametrize(
    "trick",
    [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
     b"Content-Length: 99999999\r\n\r\n"],
)  # fmt: skip
def test_a_question_has_no_body(start, trick):
    guard = start()
    raw = question("nginx", headers=KEY)[:-2] + trick
    with guard.connect() as connection:
        connection.sendall(raw.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        answer = read_answer(read_all(connection))
    assert status(answer) == 400
    assert "body" in answer.error["message"]


def test_a_hidden_second_question_is_a_question_of_its_own(start):
    guard = start()
    hidden = question("nginx", "GET", "/health")
    raw = question("caddy", headers=KEY)[:-2] + b"Content-Length: %d\r\n\r\n" % len(hidden) + hidden
    assert guard.send(raw.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)).count(b"HTTP/1.1 ") == 1
    both = b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert guard.send(question("caddy", headers=KEY)[:-2] + both).startswith(b"HTTP/1.1 400 ")


def test_a_head_that_is_too_long_reaches_the_client_as_such(start):
    long = "".join(f"X-{number}: {'y' * 1000}\r\n" for number in range(20))
    answer = ask(start(), "nginx", headers=KEY + long)
    assert (answer.status, status(answer)) == (403, 431)
    assert ask(start(), "caddy", uri="/v1/models?" + "x" * 20_000).status == 431


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "Host", "Content-Type", "Origin"])
def test_two_of_what_decides_are_refused(start, name):
    twice = f"{name}: a\r\n{name}: b\r\n" if name != "Host" else "Host: b\r\n"
    answer = ask(start(), "nginx", headers=twice)
    assert status(answer) == 400


# who asks


def test_a_client_that_reaches_the_port_gains_nothing(start):
    """Neither does it learn whether a key is valid, nor does it use up anybody's quota, under whatever address."""
    policy = replace(OPEN, identity=Identity(trusted_proxies=("127.0.0.1/32",)))
    guard = start(policy)

    def directly(raw: bytes):
        with socket.create_connection(("127.0.0.1", guard.port), 10, source_address=("127.0.0.2", 0)) as connection:
            connection.sendall(raw.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            return read_answer(read_all(connection))

    for proxy in PROXIES:
        for uri in ("/health", "/v1/chat/completions", "/nowhere"):
            answer = directly(question(proxy, uri=uri, headers=KEY))
            assert status(answer) == 403
            assert "127.0.0.2 is none of them" in answer.error["message"]
            assert "ratelimit" not in answer.fields
            assert "x-corral-client" not in answer.fields
    assert {record.address for record in guard.records} == {"127.0.0.2"}
    assert ask(guard, "nginx").status == 200
    assert status(ask(guard, "nginx")) == 429


def test_only_the_proxys_own_entry_of_the_forwarding_header_counts(start):
    guard = start(OPEN)
    assert ask(guard, "envoy", headers="X-Forwarded-For: 192.0.2.1\r\n").status == 200
    for spoofed in ("192.0.2.2", "192.0.2.3, 192.0.2.4", "nonsense", ""):
        assert ask(guard, "envoy", headers=f"X-Forwarded-For: {spoofed}\r\n").status == 429
    assert {record.address for record in guard.settled(5)} == {CLIENT}


def test_wrong_keys_are_counted_by_the_clients_address(start):
    guard = start()
    wrong = "Authorization: Bearer wrong\r\n"
    statuses = [ask(guard, "caddy", headers=wrong, address="192.0.2.66").status for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert ask(guard, "caddy", headers=KEY, address="192.0.2.66").status == 429
    assert ask(guard, "caddy", headers=KEY).status == 200


def test_a_question_that_is_none_is_not_put_down_to_the_client_before(start):
    guard = start()
    with guard.connect() as connection:
        connection.sendall(question("nginx", headers=KEY))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(question("nginx", uri="no-path", headers=KEY))
        assert b"X-Corral-Status: 400" in connection.recv(65536)
    good, bad = guard.settled(2)
    assert (good.client, good.address, good.method) == ("alice", CLIENT, "POST")
    assert (bad.client, bad.address, bad.method) == ("", "127.0.0.1", "")


def test_a_key_in_the_url_is_refused_wherever_a_route_is(start):
    guard = start()
    for _, path, _ in dialect("llamacpp").routes():
        answer = ask(guard, "traefik", "GET", f"{path.decode()}?api_key=x", headers=KEY)
        assert answer.error["code" if "code" in answer.error else "type"] in (
            "key_in_url",
            400,
            "invalid_request_error",
        )
        assert answer.status == 400


def test_clients_that_invent_forwarding_headers_fill_no_memory():
    identity = ClientIdentity(("10.0.0.0/8",))
    for number in range(10_000):
        address = f"192.0.{number // 256}.{number % 256}"
        head = {b"x-forwarded-for": f"10.9.9.9, {address}".encode()}
        assert [identity.client("10.0.0.1", head) for _ in range(2)] == [address] * 2
        assert identity.client("192.0.2.7", head) == "192.0.2.7"
    assert identity.client("10.0.0.1", {b"x-forwarded-for": b"x" * 10_000 + b", 192.0.2.1"}) == "192.0.2.1"
    assert len(identity._found) <= 4096
    assert all(len(value) <= 128 for _, value in identity._found)


def test_a_proxys_connections_are_bounded_in_all_alone(start):
    bounds = replace(Policy().bounds, max_connections_per_address=2, max_connections=6)
    identity = Identity(trusted_proxies=("127.0.0.1/32",))
    guard = start(replace(KEYED, bounds=bounds, identity=identity))
    stranger = [socket.create_connection(("127.0.0.1", guard.port), 10, ("127.0.0.2", 0)) for _ in range(3)]
    proxy = [guard.connect() for _ in range(4)]
    try:
        for connection in proxy:
            connection.sendall(question("nginx", headers=KEY))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        turned_away = 0
        for connection in stranger:
            try:
                connection.sendall(question("nginx", headers=KEY))
                turned_away += not connection.recv(65536).startswith(b"HTTP/1.1 403 ")
            except ConnectionError:
                turned_away += 1
        assert turned_away == 1
    finally:
        for connection in (*stranger, *proxy):
            connection.close()
