from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace as Server

import pytest

from corral.cli.serving import Flags, address_notes, build_policy, store_notes, summary, tell
from corral.errors import PolicyError, UsageError
from corral.guard.launch_arguments import Launch, read_arguments
from corral.guard.lifetime import _in_front_of
from corral.guard.new_key import hash_key
from corral.policy.model import ApiKey, Credentials, Jwt, Policy
from corral.policy.rules import check

NONE = dict.fromkeys(
    (
        "policy",
        "listen",
        "rate_limit",
        "rate_window",
        "max_tokens",
        "max_concurrent",
        "auth",
        "admin",
        "log",
        "log_format",
    )
)


def flags(**given: object) -> Flags:
    return Flags(**{**NONE, **given})  # type: ignore[arg-type]  # a test names what it sets


def launch(line: str) -> Launch:
    return read_arguments(["llama-server", *line.split()], {})


def test_each_option_sets_what_it_names() -> None:
    policy = build_policy(
        flags(
            listen="127.0.0.1:9",
            rate_limit=7,
            rate_window=5.0,
            max_tokens=11,
            max_concurrent=3,
            auth="keys",
            admin="127.0.0.1:10",
            log="",
            log_format="text",
        ),
        {},
        upstream="http://127.0.0.1:8081",
    )
    assert (policy.listen.address, policy.admin.listen, policy.auth) == ("127.0.0.1:9", "127.0.0.1:10", "keys")
    assert (policy.limits[0].quota.amount, policy.limits[0].quota.window) == (7, 5.0)
    assert (policy.generation.max_tokens, policy.concurrency.max_running) == (11, 3)
    assert (policy.log.path, policy.log.format) == ("", "text")


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("127.0.0.1:8081", "http://127.0.0.1:8081"),
        ("http://[::1]:1", "http://[::1]:1"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_an_upstream_may_be_written_short(written: str, url: str) -> None:
    assert build_policy(flags(), {}, upstream=written).upstream.url == url


def test_later_words_win(tmp_path: Path) -> None:
    path = tmp_path / "corral.toml"
    path.write_text('[generation]\nmax_tokens = 1\n[listen]\naddress = "127.0.0.1:1"\n')
    environ = {"CORRAL_GENERATION_MAX_TOKENS": "2"}
    server = launch("--max-tokens 3 --port 3 --rate-limit 3 -m x")
    assert build_policy(flags(policy=path), {}).generation.max_tokens == 1
    assert build_policy(flags(policy=path), environ).generation.max_tokens == 2
    by_server = build_policy(flags(policy=path), environ, launch=server)
    assert (by_server.generation.max_tokens, by_server.listen.address) == (3, "127.0.0.1:3")
    assert by_server.limits[0].quota.amount == 3
    by_flag = build_policy(flags(policy=path, max_tokens=4, listen="[::1]:4", rate_limit=4), environ, launch=server)
    assert (by_flag.generation.max_tokens, by_flag.listen.address) == (4, "[::1]:4")
    assert by_flag.limits[0].quota.amount == 4


def test_a_host_alone_keeps_llama_servers_port_and_a_port_its_host() -> None:
    assert build_policy(flags(), {}, launch=launch("--host ::1 -m x")).listen.address == "[::1]:8080"
    assert build_policy(flags(), {}, launch=launch("--port 0 -m x")).listen.address == "127.0.0.1:0"


def test_the_servers_keys_and_certificate_are_taken_over() -> None:
    policy = build_policy(flags(), {}, launch=launch("--api-key a,b --ssl-key-file k --ssl-cert-file c -m x"))
    assert [key.sha256 for key in policy.keys] == [hash_key("a"), hash_key("b")]
    assert (policy.listen.tls_key, policy.listen.tls_certificate) == ("k", "c")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"listen": "nowhere"}, "^--listen: "),
        ({"max_concurrent": 64}, "max_connections = 65"),
        ({"admin": "127.0.0.1:8080"}, "^--admin: "),
    ],
)
def test_a_wrong_option_is_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        build_policy(flags(**given), {}, upstream="127.0.0.1:1")


def test_keys_that_nobody_would_ask_for_are_a_contradiction() -> None:
    with pytest.raises(PolicyError, match="never be asked for"):
        build_policy(flags(auth="none"), {}, launch=launch("--api-key a -m x"))


def test_a_window_alone_limits_nothing() -> None:
    with pytest.raises(UsageError, match="write both"):
        build_policy(flags(rate_window=5.0), {}, upstream="127.0.0.1:1")


def test_what_is_odd_about_the_store_is_said(tmp_path: Path) -> None:
    there, missing = tmp_path / "keys.db", tmp_path / "none.db"
    there.touch()
    keyed = Policy(auth="keys", credentials=Credentials(store=str(missing)))
    assert "Nobody is asked" in store_notes(Policy(auth="none"), there)[0]
    assert f"--store {missing}" in store_notes(keyed, there)[0]
    for policy in (
        Policy(auth="keys", credentials=Credentials(store=str(there))),
        replace(keyed, jwt=Jwt(secret="x")),
        replace(keyed, keys=(ApiKey(name="a", sha256="ab" * 32),)),
        Policy(auth="none"),
    ):
        assert store_notes(policy, missing) == []


def test_the_summary_says_what_a_server_was_started_with() -> None:
    server = read_arguments(["/opt/llama-server", "--tools", "all", "-m", "x"], {})
    said = " ".join(summary(build_policy(flags(), {}, launch=server), server))
    assert "guards llama-server on a private socket" in said
    assert "Note: --tools" in said


def test_the_server_gets_more_connections_than_it_has_slots() -> None:
    policy = _in_front_of(Policy(), Server(slots=100, url="unix:/x.sock"))  # type: ignore[arg-type]  # all that is read
    assert (policy.upstream.slots, policy.upstream.max_connections) == (100, 101)
    assert list(check(policy)) == []
    few = _in_front_of(Policy(), Server(slots=2, url="unix:/x.sock"))  # type: ignore[arg-type]  # as above
    assert (few.upstream.slots, few.upstream.max_connections) == (2, 64)


def test_it_is_said_which_of_two_addresses_wins(tmp_path: Path) -> None:
    path = tmp_path / "corral.toml"
    path.write_text('[listen]\naddress = "127.0.0.1:9000"\n')
    server = launch("--port 8085 -m x")

    def notes(given: Flags, launched: Launch) -> list[str]:
        return address_notes(given, launched, {}, build_policy(given, {}, launch=launched).listen.address)

    (said,) = notes(flags(policy=path), server)
    assert "--host and --port, 127.0.0.1:8085, rather than listen.address, 127.0.0.1:9000" in said
    assert notes(flags(), server) == []
    assert notes(flags(policy=path), launch("-m x")) == []
    assert notes(flags(policy=path), launch("--port 9000 -m x")) == []
    assert notes(flags(policy=path, listen="127.0.0.1:1"), server) == []


def test_each_line_that_is_told_is_corrals(capsys: pytest.CaptureFixture[str]) -> None:
    tell("first\nsecond\n\n    set in\n")
    assert capsys.readouterr().err == "corral: first\ncorral: second\n\n    set in\n\n"
