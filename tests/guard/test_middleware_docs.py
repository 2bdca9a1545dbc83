"""The programs in docs/middleware.md run as they stand."""

import re
from pathlib import Path

import pytest
from flask import Flask

from running_app import serve_asgi, serve_wsgi

PAGE = Path(__file__).parents[2] / "docs" / "middleware.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_of_the_page_guards_its_application(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("corral.toml").write_text('auth = "none"\n[log]\npath = ""\n[[limits]]\nname = "one"\nquota = "1/hour"\n')
    names = {"__name__": "program"}
    exec(compile(program, str(PAGE), "exec"), names)
    app = names["app"]
    with (serve_wsgi if isinstance(app, Flask) else serve_asgi)(app) as client:
        assert [client.get("/nowhere").status for _ in range(2)] == [404, 429]


def test_every_argument_stands_on_the_page():
    page = PAGE.read_text()
    for name in ("policy", "unknown", "routes", "websockets", "records", "metrics"):
        assert f"`{name}" in page
    assert len(PROGRAMS) == 4
