"""`corral keys`, as people and scripts run it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.guard.new_key import looks_like_key

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def keys(tmp_path: Path) -> Run:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
        return subprocess.run(
            [sys.executable, "-m", "corral", "keys", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={**clean, "XDG_STATE_HOME": str(tmp_path / "state"), "COLUMNS": "200"},
            cwd=tmp_path,
            check=False,
        )

    return run


def test_a_key_lives_from_create_to_revoke(keys: Run, tmp_path: Path) -> None:
    made = keys("create", "--name", "alice", "--expires", "90d")
    assert made.returncode == 0
    assert looks_like_key(made.stdout.strip()), "standard output is the key alone"
    assert str(tmp_path / "state" / "corral" / "keys.db") in made.stderr
    assert "shown once" in made.stderr
    rotated = keys("rotate", "alice", "--grace", "1h")
    assert looks_like_key(rotated.stdout.strip())
    assert "is valid until" in rotated.stderr
    listed = keys("list").stdout.splitlines()
    assert [line.split("\t")[0] for line in listed] == ["NAME", "alice", "alice"]
    assert [line.split("\t")[-1] for line in listed[1:]] == ["valid", "valid"]
    assert made.stdout.strip() not in "".join(listed)
    assert keys("revoke", "alice").stdout.count("Revoked crl_") == 2
    assert [line.split("\t")[-1] for line in keys("list").stdout.splitlines()[1:]] == ["revoked", "revoked"]


def test_scripts_read_json(keys: Run, tmp_path: Path) -> None:
    made = json.loads(keys("create", "--name", "alice", "--admin", "--store", "k.db", "--json").stdout)
    assert looks_like_key(made["key"])
    assert (made["name"], made["admin"], made["plan"], made["expires"]) == ("alice", True, None, None)
    rotated = json.loads(keys("rotate", "alice", "--store", "k.db", "--json").stdout)
    assert [old["prefix"] for old in rotated["replaced"]] == [made["prefix"]]
    listed = json.loads(keys("list", "--store", "k.db", "--json").stdout)
    assert [key["status"] for key in listed["keys"]] == ["valid", "valid"]
    assert made["key"] not in json.dumps(listed)
    revoked = json.loads(keys("revoke", made["prefix"], "--store", "k.db", "--json").stdout)
    assert [key["status"] for key in revoked["revoked"]] == ["revoked"]


def test_the_policy_names_the_store_and_the_plans(keys: Run, tmp_path: Path) -> None:
    (tmp_path / "corral.toml").write_text('[credentials]\nstore = "mine.db"\n[plan.pro]\n')
    assert keys("create", "--name", "a", "--plan", "pro", "--policy", "corral.toml").returncode == 0
    assert (tmp_path / "mine.db").exists()
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create",), "--name"),
        (("create", "--name", "a b"), "cannot name a key"),
        (("create", "--name", "a", "--plan", "pro"), "no plan"),
        (("create", "--name", "a", "--expires", "soon"), "--expires: "),
        (("create", "--name", "a", "--expires", "0s"), "--expires: "),
        (("create", "--name", "a", "--store", ""), "credentials.store"),
        (("create", "--name", "a", "--policy", "no.toml"), "does not exist"),
        (("create", "--name", "a", "--store", "/proc/nowhere/keys.db"), "cannot be made"),
        (("list",), "There is no key store"),
        (("rotate", "a"), "There is no key store"),
        (("revoke", "a"), "There is no key store"),
    ],
)
def test_a_mistake_ends_with_status_2_and_a_sentence(keys: Run, arguments: tuple[str, ...], said: str) -> None:
    ended = keys(*arguments)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_an_empty_store_says_so(keys: Run) -> None:
    made = json.loads(keys("create", "--name", "a", "--json").stdout)
    assert json.loads(keys("list", "--json").stdout)["store"] == made["store"]
