"""The documentation tells the truth: its links lead somewhere, its examples run, and nothing is left out."""

import re
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import jsonschema
import pytest
import typer.main
from typer.testing import CliRunner

from corral.cli import app
from corral.policy.load import load_policy
from corral.policy.model import Policy, Quota
from corral.policy.reference import reference
from corral.policy.schema import schema
from corral.policy.template import template
from corral.scan.checks import CHECKS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group


def blocks(kind: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        found += [(page.name, text) for text in re.findall(rf"```{kind}\n(.*?)```", page.read_text(), re.DOTALL)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_policies_in_the_docs_are_valid(page, text):
    load_policy(text=text)


def test_commands_in_the_docs_exist_with_their_options():
    lines = [line for _, text in blocks("console") for line in text.splitlines() if line.startswith("$ corral ")]
    assert lines
    for line in lines:
        name, *rest = line.removeprefix("$ corral ").partition("#")[0].partition(" -- ")[0].split()
        command = COMMANDS[name]
        while hasattr(command, "commands"):
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        for word in rest:
            if word.startswith("--"):
                assert word in known, line


def test_make_targets_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page, text in blocks("console"):
        for target in re.findall(r"^\$ make ([a-z]+)", text, re.MULTILINE):
            assert target in targets, page


def test_every_command_has_help_and_an_example():
    inner = [[name, part] for name, command in COMMANDS.items() for part in getattr(command, "commands", ())]
    for name in [*([name] for name in COMMANDS), *inner]:
        result = CliRunner().invoke(app, [*name, "--help"])
        assert result.exit_code == 0
        assert "corral " in result.output
        assert "Example" in result.output, name


def test_every_check_is_explained():
    page = (ROOT / "docs" / "scan.md").read_text()
    for check in CHECKS:
        assert f"`{check.id}`" in page


def test_the_page_of_settings_is_the_models():
    assert (ROOT / "docs" / "settings.md").read_text() == reference(), "run `make docs`"


def test_the_written_policy_fits_the_schema():
    text = re.sub(r"^#(?=[\w\[])", "", template(), flags=re.MULTILINE)
    text = re.sub(r'^\w+ = (""|0)\n', "", text, flags=re.MULTILINE)  # the placeholders of what is absent
    jsonschema.Draft202012Validator(schema()).validate(tomllib.loads(text))


@pytest.mark.parametrize("wrong", ["listen = 3", "[bounds]\nmax_bdy = 1", '[[keys]]\nname = "x"', 'auth = "maybe"'])
def test_the_schema_refuses_what_is_wrong(wrong):
    assert not jsonschema.Draft202012Validator(schema()).is_valid(tomllib.loads(wrong))


def test_every_setting_stands_in_the_written_policy():
    text = template()
    hints = get_type_hints(Policy)
    for section in fields(Policy):
        kind = hints[section.name]
        inner = [field.name for field in fields(kind)] if is_dataclass(kind) and kind is not Quota else [section.name]
        for name in inner:
            assert re.search(rf"^#?\[*{name}\b", text, re.MULTILINE), f"{section.name}.{name}"
