"""From text, environment and flags to a policy, and the errors on the way."""

import dataclasses
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import PolicyError
from corral.policy.load import load_policy
from corral.policy.model import LimitRule, Plan, Policy, Quota
from corral.policy.positions import find_lines
from corral.policy.template import kind_name, template

COLLECTOR = "http://127.0.0.1:4318/v1/traces"
HASH = "ab" * 32
_ABSENT = ("endpoint =", "key_sha256", "authorization =", "tls_", "api_key", "listen = ", "store", "secret", "public_key",
           "jwks_url", "issuer", "audience", "type", "plan_claim", "slots = 0", "max_running", 'path = ""')  # fmt: skip
"""Settings whose default is absence, which the template can only show as a placeholder."""


def error(text: str, **more) -> str:
    with pytest.raises(PolicyError) as caught:
        load_policy(text=text, **more)
    return str(caught.value)


def test_nothing_at_all_is_the_defaults():
    assert load_policy() == Policy()


def test_a_file_is_read(tmp_path):
    path = tmp_path / "corral.toml"
    path.write_text(
        'auth = "keys"\n[listen]\naddress = "[::1]:9000"\n[[keys]]\nname = "alice"\n'
        f'sha256 = "{HASH}"\nadmin = true\n[bounds]\nmax_body = "2MiB"\nhead_timeout = "5s"\n'
        '[[limits]]\nname = "all"\nquota = "100/hour"\nper = "everyone"\nburst = 10\n'
    )
    policy = load_policy(path)
    assert policy.listen.address == "[::1]:9000"
    assert policy.keys[0].admin
    assert policy.bounds.max_body == 2 * 2**20
    assert policy.bounds.head_timeout == 5.0
    assert policy.limits == (LimitRule(name="all", quota=Quota(100, 3600.0), per="everyone", burst=10),)


def test_the_written_template_is_the_defaults_commented_or_not():
    assert load_policy(text=template()) == Policy()
    bare = "\n".join(
        line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in template().splitlines()
    )
    skipped = [line for line in bare.splitlines() if not line.startswith(_ABSENT)]
    one = 'url = "http://127.0.0.1:8081"'
    with pytest.raises(PolicyError, match="they name the servers"):
        load_policy(text="\n".join(skipped))  # one server or several: not both
    policy = load_policy(text="\n".join(line for line in skipped if line != one))
    assert [server.name for server in policy.upstreams] == ["left", "right"]
    assert policy.keys[0].name == "alice"
    assert policy.plan["pro"].limits[0].name == "pro"
    assert policy.price["*"].output == 0.6
    assert dataclasses.replace(policy, keys=(), plan={}, price={}, upstreams=()) == Policy()


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('auht = "x"', 1, 'Did you mean "auth"?'),
        ('[listen]\nadress = "x"', 2, 'Did you mean "address"?'),
        ("zzz = 1", 1, "Known here:"),
        ("limits = 3", 1, "must be a list"),
        ("[limits]\nx = 1", 1, "must be a list"),
        ("listen = 3", 1, "must be a table"),
        ('[[limits]]\nname = "a"\nquota = "30/fortnight"', 3, "is no quota"),
        ('[[limits]]\nname = "a"', 1, "this is missing"),
        ('[bounds]\n\nmax_body = "1 elephant"', 3, "is no size"),
        ('[bounds]\nhead_timeout = "soon"', 2, "is no duration"),
        ('[concurrency]\nmax_running = "four"', 2, "a whole number"),
        ("[generation]\ngrammar = 1", 2, "true or false"),
        ("[listen]\naddress = 8080", 2, "a text in quotes"),
        ('auth = "maybe"', 1, 'Write "auto" or "keys" or "none"'),
        ('[[limits]]\nname = "a"\nquota = "200 tokens/hour"\nburst = 300', 4, "300 at once are more than the 200"),
        ('[[limits]]\nname = "a"\nquota = "200 elephants/hour"', 3, "is no quota"),
        ('[[limits]]\nname = "a"\nquota = "200 output requests/hour"', 3, "is no quota"),
        ('[[limits]]\nname = "a b"\nquota = "1/hour"', 2, "is no name"),
        ('[[limits]]\nname = "a"\nquota = "1/hour"\nburst = 3\nalgorithm = "window"', 4, "has no burst"),
        ('[[limits]]\nname = "a"\nquota = "1/hour"\nburst = 0', 4, "at least 1"),
        ('auth = "none"\n[[limits]]\nname = "a"\nquota = "1/hour"\nper = "key"', 5, "nobody has a key"),
        ('[[limits]]\nname = "a"\nquota = "1/hour"\n[[limits]]\nname = "a"\nquota = "2/hour"', 5, "two limits"),
        ('max_failed_logins = "10 tokens/minute"', 1, "counts requests"),
        ('[[keys]]\nname = "a"\nsha256 = "zz"', 3, "SHA-256"),
        (f'[[keys]]\nname = "a b"\nsha256 = "{HASH}"', 2, "letters, digits"),
        (f'[[keys]]\nname = "a"\nsha256 = "{HASH}"\n[[keys]]\nname = "A"\nsha256 = "{"cd" * 32}"', 5, "same name"),
        (f'[[keys]]\nname = "a"\nsha256 = "{HASH}"\n[[keys]]\nname = "b"\nsha256 = "{HASH}"', 6, "same sha256"),
        (f'auth = "none"\n[[keys]]\nname = "a"\nsha256 = "{HASH}"', 1, "never be asked for"),
        (f'[[keys]]\nname = "a"\nsha256 = "{HASH}"\nplan = "pro"', 4, "there is no plan"),
        ("[telemetry]\nsample_ratio = 0.5", 2, "nothing is traced without telemetry.endpoint"),
        (f"[telemetry]\nendpoint = '{COLLECTOR}'\nsample_ratio = 2", 3, "is no share"),
        (
            f"[telemetry]\nendpoint = '{COLLECTOR}'\nparent = 'proxies'",
            3,
            "no identity.trusted_proxies whose word counts",
        ),
        (f"[telemetry]\nendpoint = '{COLLECTOR}'\nmax_waiting = 0", 3, "at least 1"),
        ("[telemetry]\nendpoint = 'http://127.0.0.1:4318'", 2, '"http://127.0.0.1:4318/v1/traces"'),
        ("[telemetry]\nendpoint = 'grpc://127.0.0.1:4317/x'", 2, "is no URL"),
        ("[telemetry]\nendpoint = 'http://[::1/v1/traces'", 2, "is no URL"),
        (f"[telemetry]\nendpoint = '{COLLECTOR}'\nauthorization = 'Bearer é'", 3, "no header can carry"),
        ('[upstream]\nurl = "http://[::1:8081"', 2, "an IPv6 address in brackets"),
        ('[upstream]\napi_key = "key\\r\\n"', 2, "no header can carry"),
        ('[[upstreams]]\nname = "a"\nurl = "http://[::1:8081"', 3, "an IPv6 address in brackets"),
        ('[[upstreams]]\nname = "a"\nurl = "http://h:1"\napi_key = "key\\n"', 4, "no header can carry"),
        (f'[[keys]]\nname = "a"\nsha256 = "{HASH}"\nplan = "pro"\n[plan.free]', 4, 'Known: "free"'),
        ('auth = "none"\n[credentials]\nstore = "keys.db"', 1, "never be asked for"),
        ("plan = 3", 1, "[plan.NAME]"),
        ("[plan]\npro = 3", 2, "must be a table"),
        ('[plan."a b"]\npriority = 2', 1, "letters, digits"),
        ("[plan.pro]\n\npriority = 0", 3, "more than 0"),
        ('[plan.pro]\npriority = "2s"', 2, "is no weight"),
        ("[plan.pro]\npriority = nan", 2, "is no weight"),
        ("[plan.pro]\nmax_tokens = 0", 2, "at least 1"),
        ('[plan.pro]\nmodels = ["a", ""]', 2, "has a name"),
        ("[plan.pro]\nprioritty = 1", 2, 'Did you mean "priority"?'),
        ('[plan.pro]\n[[plan.pro.limits]]\nname = "client"\nquota = "1/hour"', 3, "two limits"),
        ('[plan.pro]\n[[plan.pro.limits]]\nname = "x"\nquota = "1 token/hour"\nburst = 2', 5, "more than the 1"),
        ('[jwt]\nissuer = "x"', 1, "not with which key"),
        ('[jwt]\nsecret = "x"\npublic_key = "y"', 3, "keep one of them"),
        ('auth = "none"\n[jwt]\nsecret = "x"', 1, "asked for a token"),
        ('[jwt]\npublic_key = "x"\nalgorithms = ["RS256", "HS256"]', 3, "HS256 works with a secret"),
        ('[jwt]\nsecret = "x"\nalgorithms = ["ES256"]', 3, "ES256 works with a public key"),
        ('[jwt]\nsecret = "x"\nalgorithms = ["none"]', 3, "is not known here"),
        ('[jwt]\njwks_url = "https://x/"\naudience = "a"', 1, "signs tokens for many"),
        ('[jwt]\njwks_url = "https://x/"\nissuer = "a"', 1, "signs tokens for many"),
        ('[jwt]\nsecret = "x"\naudience = ""', 3, "this is missing"),
        ('[jwt]\nsecret = "x"\nuser_claim = ""', 3, "write a name"),
        ('[jwt]\nsecret = "x"\nplan_claim = "plan"', 3, "no plan that it could name"),
        ('[jwt]\nsecret = "x"\nleeway = "1h"', 3, "at most 300"),
        ('[jwt]\nsecret = "x"\nmax_length = "1MiB"', 3, "from 128 to"),
        ('[jwt]\nsecret = "x"\njwks_refresh = 0', 3, "at least 1"),
        ('[jwt]\nissuer = "i"\naudience = "a"\njwks_url = "http://192.0.2.1/"', 4, "write https"),
        ('[jwt]\nissuer = "i"\naudience = "a"\njwks_url = "http://issuer.example/"', 4, "write https"),
        ('[jwt]\nissuer = "i"\naudience = "a"\njwks_url = "file:///etc/keys"', 4, "no URL to fetch"),
        ('[jwt]\nissuer = "i"\naudience = "a"\njwks_url = "https://u:p@x/"', 4, "no URL to fetch"),
        ('[jwt]\nissuer = "i"\naudience = "a"\njwks_url = "https://x:99999/"', 4, "no URL to fetch"),
        ('[listen]\naddress = "nowhere"', 2, "a host and a port"),
        ('[listen]\naddress = "::1:80"', 2, "in brackets"),
        ('[listen]\naddress = "a:99999"', 2, "a host and a port"),
        ('[admin]\nlisten = "127.0.0.1:8080"', 2, "choose another port"),
        ('[identity]\ntrusted_proxies = ["10.0.0.0/33"]', 2, "10.0.0.0/8"),
        ('[identity]\ntrusted_proxies = ["10.0.0.1/8"]', 2, "host bits"),
        ('[upstream]\nurl = "ftp://x"', 2, "is no server"),
        ('[upstream]\nurl = "https://x"', 2, "plain HTTP"),
        ('[upstream]\nurl = "http://x:1/v1"', 2, "without a path"),
        ('[upstream]\nurl = "http://x:99999999"', 2, "no valid port"),
        ('[upstream]\nurl = "unix:"', 2, "name the socket"),
        ('[listen]\ntls_certificate = "x.pem"', 1, "belong together"),
        ('[listen]\ntls_key = "x.pem"', 1, "belong together"),
        ("[concurrency]\nmax_running = 0", 2, "at least 1"),
        ("[concurrency]\nmax_running = 100", 1, "max_connections = 101 or more"),
        ("[concurrency]\nmax_running = 64", 1, "max_connections = 65 or more"),
        ("x =", None, "not valid TOML"),
        ("auth = keys", None, 'A text stands in quotes, as auth = "keys".'),
        ('[limits]\nquota = "1/hour"', 1, "this must be a list, written as [[limits]]."),
        ('[generation]\nmax_tokens = "10"', 2, 'a whole number, as 10, not "10".'),
        ('[concurrency]\nmax_wait = "90x"', 2, 'or "90d"'),
    ],
)
def test_an_error_names_the_line_and_says_what_to_write(text, line, said):
    message = error(text)
    assert said in message
    if line is not None and "concurrency.max_running" not in message:
        assert f"line {line}:" in message


def test_a_file_that_is_not_there_says_how_to_have_one(tmp_path):
    with pytest.raises(PolicyError, match="corral init"):
        load_policy(tmp_path / "corral.toml")


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    path = tmp_path / "corral.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match="cannot be read as a policy: it is no text"):
        load_policy(path)


def test_a_model_is_no_policy_and_not_read_whole(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF\xff\xff")
    with pytest.raises(PolicyError, match=r"no text\. A policy is a TOML file"):
        load_policy(path)
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(PolicyError, match=r"more than 1 MiB\. A policy is a TOML file"):
        load_policy(path)


def test_a_directory_is_no_policy(tmp_path):
    with pytest.raises(PolicyError, match=r"is a directory: name the policy in it, as .*/corral.toml"):
        load_policy(tmp_path)


def test_all_that_is_wrong_is_said_at_once_in_the_files_order():
    said = error(
        '[generation]\nmax_tokens = "many"\n[bounds]\nhead_timeout = "soon"\n[listen]\nadress = "x"\n[concurrency]\n'
        'max_running = "four"\n[[limits]]\nname = "a"\n'
    ).splitlines()
    assert [line.split(",")[1].split(":")[0] for line in said] == [
        " line 2",
        " line 4",
        " line 6",
        " line 8",
        " line 9",
    ]


def test_all_rules_that_are_broken_are_said_at_once_in_the_files_order():
    said = error('[concurrency]\nmax_wait = 0\n[admin]\nlisten = "x"\n[[limits]]\nname = "a b"\nquota = "1/hour"\n')
    assert [line.split(":")[0][-6:] for line in said.splitlines()] == ["line 2", "line 4", "line 6"]


def test_the_environment_beats_the_file_and_flags_beat_both():
    text = '[listen]\naddress = "127.0.0.1:1"\n[concurrency]\nmax_running = 2'
    environ = {"CORRAL_LISTEN_ADDRESS": "127.0.0.1:2", "CORRAL_CONCURRENCY_MAX_RUNNING": "3", "HOME": "/"}
    policy = load_policy(text=text, environ=environ, overrides={"listen.address": "127.0.0.1:3"})
    assert (policy.listen.address, policy.concurrency.max_running) == ("127.0.0.1:3", 3)


def test_the_environment_holds_booleans_lists_and_durations():
    environ = {
        "CORRAL_GENERATION_GRAMMAR": "true",
        "CORRAL_IDENTITY_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.0/24",
        "CORRAL_BOUNDS_HEAD_TIMEOUT": "3s",
        "CORRAL_AUTH": "none",
    }
    policy = load_policy(environ=environ)
    assert policy.generation.grammar
    assert policy.identity.trusted_proxies == ("10.0.0.0/8", "192.0.2.0/24")
    assert policy.bounds.head_timeout == 3.0


def test_a_misspelt_variable_is_an_error():
    assert "Did you mean CORRAL_LISTEN_ADDRESS?" in error("", environ={"CORRAL_LISTEN_ADRESS": "x"})


def test_an_error_from_the_environment_or_a_flag_names_it():
    assert "CORRAL_LISTEN_ADDRESS" in error("", environ={"CORRAL_LISTEN_ADDRESS": "x"})
    assert "--listen" in error("", overrides={"listen.address": "x"}, flags={"listen.address": "--listen"})


def test_a_key_from_the_environment_is_hashed_and_kept_once():
    digest = sha256(b"secret").hexdigest()
    policy = load_policy(environ={"CORRAL_API_KEY": "secret"})
    assert [key.sha256 for key in policy.keys] == [digest]
    text = f'[[keys]]\nname = "a"\nsha256 = "{digest}"'
    assert len(load_policy(text=text, environ={"CORRAL_API_KEY": "secret"}).keys) == 1


def test_tokens_are_configured_from_the_environment_too():
    text = '[jwt]\nissuer = "https://i.example"\naudience = "llm"\nalgorithms = ["ES256"]\nleeway = "1m"'
    policy = load_policy(text=text, environ={"CORRAL_JWT_JWKS_URL": "http://127.0.0.1:9/jwks"})
    assert policy.jwt.key_settings == ("jwks_url",)
    assert (policy.jwt.algorithms, policy.jwt.leeway) == (("ES256",), 60.0)
    assert load_policy().jwt.key_settings == ()


def test_plans_are_read():
    policy = load_policy(
        text='[plan.free]\n[plan.pro]\npriority = 2\nmodels = ["a", "b"]\nmax_tokens = 9\n'
        '[[plan.pro.limits]]\nname = "pro"\nquota = "600/minute"\n'
    )
    pro = Plan(limits=(LimitRule(name="pro", quota=Quota(600, 60.0)),), priority=2.0, models=("a", "b"), max_tokens=9)
    assert policy.plan == {"free": Plan(), "pro": pro}


def test_no_error_shows_a_secret():
    assert "hunter2" not in error('[upstream]\napi_key = "hunter2"\nurl = "ftp://x"')


@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_a_policy_error(text):
    try:
        load_policy(text=text)
    except PolicyError:
        pass


def test_places_are_found_in_nested_tables():
    text = 'a = 1\n[b]\nc.d = 2\n[[e]]\nf = 1\n[[e]]\n"g" = 2\n'
    assert find_lines(text) == {("a",): 1, ("b",): 2, ("b", "c", "d"): 3, ("e", 0): 4, ("e", 0, "f"): 5, ("e", 1): 6,
                                ("e", 1, "g"): 7}  # fmt: skip


def test_types_are_named_for_people():
    assert kind_name(tuple[str, ...]) == "list of text"
    assert kind_name(float) == "duration"
    assert kind_name(str | None) == "text or absent"


def test_whom_a_limit_counts_is_one_word_or_a_list():
    def limit(per: str) -> str:
        return f'[[limits]]\nname = "a"\nquota = "3/minute"\nper = {per}\n[plan.pro]\nmodels = ["big"]\n'

    assert load_policy(text=limit('"prefix"')).limits[0].partitions == ("prefix",)
    assert load_policy(text=limit('["user", "model"]')).limits[0].partitions == ("user", "model")
    assert load_policy(text=limit('"global"')).limits[0].partitions == ("everyone",)
    with pytest.raises(PolicyError, match=r"line 4: limits\[0\]\.per\[1\]: .modle. is not known here"):
        load_policy(text=limit('["user", "modle"]'))
    with pytest.raises(PolicyError, match=r"limits.0..per: 3 is not known here"):
        load_policy(text=limit("3"))


def test_the_environments_admin_key_goes_before_the_files_where_there_is_a_listener():
    text = f'[admin]\nlisten = "127.0.0.1:9464"\nkey_sha256 = "{"0" * 64}"'
    key = "0123456789abcdef"
    policy = load_policy(text=text, environ={"CORRAL_ADMIN_KEY": key})
    assert policy.admin.key_sha256 == sha256(key.encode()).hexdigest()
    assert load_policy(text=text, environ={"CORRAL_ADMIN_KEY": ""}).admin.key_sha256 == "0" * 64
    assert load_policy(environ={"CORRAL_ADMIN_KEY": key}) == Policy(), "it may be there for `corral top` alone"


def test_an_admin_key_that_is_short_is_refused():
    with pytest.raises(PolicyError, match=r"too short.*\n?.*openssl rand"):
        load_policy(text='[admin]\nlisten = "127.0.0.1:9464"', environ={"CORRAL_ADMIN_KEY": "short"})


def test_an_admin_key_must_be_a_hash_and_open_something():
    assert "64 hexadecimal digits" in error('[admin]\nlisten = "127.0.0.1:9464"\nkey_sha256 = "plain"')
    assert "no listener" in error(f'[admin]\nkey_sha256 = "{"0" * 64}"')


@pytest.mark.parametrize("text", ["a = " + "[" * 20_000, "a = " + "9" * 5000])
def test_toml_without_end_is_an_error_and_no_crash(text: str) -> None:
    with pytest.raises(PolicyError, match="nests too deep"):
        load_policy(text=text)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CORRAL_LIMITS", "1", "which the policy's file alone can say"),
        ("CORRAL_PLAN", "1", "which the policy's file alone can say"),
        ("CORRAL_GENERATION_MAX_TOKENS", "abc", 'this must be a whole number, as 10, not "abc".'),
    ],
)
def test_a_wrong_variable_is_named_with_what_to_write(variable, value, said):
    with pytest.raises(PolicyError) as caught:
        load_policy(environ={variable: value})
    assert variable in str(caught.value)
    assert said in str(caught.value)
    assert "Did you mean" not in str(caught.value)
