"""`corral init` says how the policy that it wrote is used."""

from typer.testing import CliRunner

from corral.cli import app


def test_what_comes_next_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["init"])
    assert result.exit_code == 0
    for command in ("corral check corral.toml", "corral guard --policy corral.toml", "corral run --policy corral.toml"):
        assert command in " ".join(result.stdout.split())
