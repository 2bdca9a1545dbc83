"""The dashboard and the alerts in examples/grafana: read by a real Prometheus that scrapes a real guard."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from corral.demo.llama_server import LlamaServer
from running_commands import PATIENCE, Start

FOLDER = Path(__file__).parents[2] / "examples" / "grafana"
DASHBOARD = json.loads((FOLDER / "corral.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
ALERTS = {rule["alert"]: rule["expr"] for group in RULES for rule in group["rules"]}

POLICY = """
auth = "keys"

[[keys]]
name = "alice"
sha256 = "{sha256}"
plan = "pro"

[plan.pro]

[[limits]]
name = "client"
quota = "6/hour"

[[limits]]
name = "tokens"
quota = "100000 tokens/hour"
"""
KEY = "a-key-for-the-dashboard"


def concrete(expression: str) -> str:
    """Fill in Grafana's variables as it does."""
    return expression.replace("$__rate_interval", "1m").replace("$instance", ".*")


# what needs no server


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_and_its_alerts_load() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "rules.yml")


def test_the_alerts_fire_when_they_should_and_are_silent_when_they_should_be() -> None:
    promtool("test", "rules", "rules_test.yml")


def test_every_alert_is_tested_for_both() -> None:
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    assert fired == set(ALERTS)


def test_every_alert_is_on_its_page() -> None:
    page = (FOLDER.parents[1] / "docs" / "observe.md").read_text()
    assert set(re.findall(r"`(Corral\w+)`", page)) == set(ALERTS)


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= 24 - place["w"], panel["title"]
        cells = {(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells
    assert {y for _, y in taken} == set(range(max(y for _, y in taken) + 1)), "a gap between rows"
    assert all(a["gridPos"]["y"] <= b["gridPos"]["y"] for a, b in pairwise(panels))


def test_panels_say_what_they_show_in_which_unit_from_the_chosen_prometheus() -> None:
    for panel in PANELS:
        assert panel["type"] in {"stat", "timeseries", "heatmap"}
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"].get("unit") or panel["options"]["yAxis"]["unit"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters
        assert len(set(letters)) == len(letters)
        for source in (panel, *panel["targets"]):
            assert source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({panel["title"] for panel in PANELS if panel["type"] != "stat"}) == len(
        [panel for panel in PANELS if panel["type"] != "stat"]
    )


def test_the_dashboard_can_be_imported_anywhere() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) - {"__rate_interval"}
    assert used <= set(variables)


# with a guard and a Prometheus


class Prometheus:
    """A Prometheus that scrapes one guard each second."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression; what Prometheus does not understand fails."""
        answer = httpx2.get(f"{self._url}/api/v1/query", params={"query": expression}, trust_env=False, timeout=30)
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression until there is something."""
        end = time.monotonic() + PATIENCE
        while not (result := self.query(expression)):
            assert time.monotonic() < end, f"nothing came of {expression}"
            time.sleep(0.2)
        return result


@pytest.fixture
def scraped(corral: Start, llama_server: LlamaServer, tmp_path: Path, free_port: int) -> Iterator[Prometheus]:
    """A Prometheus that has scraped a guard before and after there was traffic of all kinds."""
    from hashlib import sha256  # noqa: PLC0415

    policy = tmp_path / "corral.toml"
    policy.write_text(POLICY.format(sha256=sha256(KEY.encode()).hexdigest()))
    guard = corral("guard", llama_server.url, "--policy", policy, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    admin = guard.said(r"Metrics and health: http://(127.0.0.1:\d+)/metrics").group(1)
    config = tmp_path / "prometheus.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(FOLDER / "rules.yml")],
                "scrape_configs": [{"job_name": "corral", "static_configs": [{"targets": [admin]}]}],
            }
        )
    )
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{free_port}",
            ],
            stdout=log,
            stderr=log,
            cwd=tmp_path,
        )
    try:
        prometheus = Prometheus(f"http://127.0.0.1:{free_port}")
        end = time.monotonic() + PATIENCE
        while True:
            try:
                httpx2.get(f"http://127.0.0.1:{free_port}/-/ready", trust_env=False).raise_for_status()
                break
            except httpx2.HTTPError:
                assert time.monotonic() < end, (tmp_path / "prometheus.log").read_text()
                time.sleep(0.1)
        prometheus.wait_for("corral_build_info")
        make_traffic(guard.url)
        # What began with the traffic has a rate once it was scraped twice.
        prometheus.wait_for('sum(rate(corral_requests_total{ending="answered"}[1m]))')
        prometheus.wait_for('corral_requests_total{status="429"} and corral_requests_total{status="429"} offset 1s')
        yield prometheus
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def make_traffic(url: str) -> None:
    """Ask as clients do: streams and whole answers, with a key and without, until a limit refuses."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx2.Client(base_url=url, trust_env=False, timeout=60) as client:
        for stream in (True, False, True, False):
            body = {"prompt": "hi", "n_predict": 3, "stream": stream}
            assert client.post("/completion", json=body, headers=headers).status_code == 200
        assert client.post("/completion", json={"prompt": "hi"}).status_code == 401
        assert client.post("/completion", json={"prompt": ""}, headers=headers).status_code == 400
        assert client.get("/v1/models", headers=headers).status_code == 200
        assert client.get("/v1/models", headers=headers).status_code == 429


@pytest.mark.e2e
def test_every_panel_and_every_alert_can_be_read_from_a_guard(scraped: Prometheus) -> None:
    for expression in EXPRESSIONS:
        found = scraped.wait_for(concrete(expression))
        assert {sample["value"][1] for sample in found} != {"NaN"}, expression
    exported = set(httpx2.get(f"{scraped._url}/api/v1/label/__name__/values", trust_env=False).json()["data"])
    for expression in (*map(concrete, EXPRESSIONS), *ALERTS.values()):
        scraped.query(expression)
        named = set(re.findall(r"\b(?:corral|process)_\w+", expression))
        assert named <= exported, expression
    assert scraped.wait_for("corral_upstream_up == 1")
    rules = httpx2.get(f"{scraped._url}/api/v1/rules", trust_env=False).json()["data"]["groups"][0]["rules"]
    assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(ALERTS, "ok")
    state = {rule["name"] for rule in rules if rule["state"] == "firing"}
    assert state == set()
