"""`corral check` says what the guard would say, and looks where it would look."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from corral.cli import app
from corral.guard.key_store import KeyStore

PER_KEY = 'auth = "auto"\n[[limits]]\nname = "a"\nquota = "1/hour"\nper = "key"\n'


def check(tmp_path: Path, text: str, *options: str) -> Result:
    path = tmp_path / "corral.toml"
    path.write_text(text)
    environ = {"XDG_STATE_HOME": str(tmp_path / "state"), "COLUMNS": "200"}
    return CliRunner().invoke(app, ["check", str(path), "--json", *options], env=environ)


def said(result: Result) -> str:
    found = json.loads(result.stdout)
    return " ".join([*found["explanation"], *found["warnings"], found["error"] or ""])


def test_the_key_store_is_looked_at_as_the_guard_does(tmp_path: Path) -> None:
    store = tmp_path / "state" / "corral" / "keys.db"
    assert f"looked for in the policy and in {store}: there are none" in said(check(tmp_path, ""))
    assert "nobody has a key" in said(check(tmp_path, PER_KEY))
    KeyStore.create(store).close()
    assert f"a key from {store}" in said(check(tmp_path, ""))
    assert check(tmp_path, PER_KEY).exit_code == 0


def test_keys_in_the_store_that_nobody_is_asked_for_are_a_warning(tmp_path: Path) -> None:
    store = tmp_path / "state" / "corral" / "keys.db"
    KeyStore.create(store).close()
    assert f"Nobody is asked for the keys in {store}" in said(check(tmp_path, 'auth = "none"'))


def test_a_key_that_the_guard_would_make_is_only_told(tmp_path: Path) -> None:
    assert "one is made at start" in said(check(tmp_path, 'auth = "keys"'))


def test_a_limit_that_cannot_apply_is_named_with_its_line(tmp_path: Path) -> None:
    result = check(tmp_path, PER_KEY)
    assert result.exit_code == 2
    assert f"{tmp_path / 'corral.toml'}, line 5: limits[0].per: nobody has a key" in said(result)
    assert 'auth = "keys"' in said(result)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ('[jwt]\nsecret_file = "away"', "jwt.secret_file"),
        ('[jwt]\npublic_key = "away"\nalgorithms = ["ES256"]', "jwt.public_key"),
        ('[listen]\ntls_certificate = "away"\ntls_key = "/dev/null"', "listen.tls_certificate"),
        ('[listen]\ntls_certificate = "/dev/null"\ntls_key = "away"', "listen.tls_key"),
    ],
)
def test_a_file_that_is_not_there_is_an_error(tmp_path: Path, text: str, setting: str) -> None:
    result = check(tmp_path, text)
    assert result.exit_code == 2
    assert f"corral.toml: {setting}: away cannot be read: No such file" in said(result)
