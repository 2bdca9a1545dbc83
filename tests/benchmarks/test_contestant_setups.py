import subprocess
import sys
import tomllib
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from benchmarks.cases import CASES, KEY, VARIED, Case
from benchmarks.contestants import CONTESTANTS
from benchmarks.contestants.corral import Corral, Everything
from benchmarks.contestants.envoy import Envoy
from benchmarks.contestants.litellm import LiteLlm
from benchmarks.contestants.nginx import Nginx
from benchmarks.contestants.slowapi import Slowapi
from benchmarks.upstream import Upstream

if TYPE_CHECKING:
    from benchmarks.processes import Process

REFUSED, PROXIED, SSE = CASES
NOBODY = cast("Process", SimpleNamespace())
SLOWAPI = Slowapi("slowapi", "httpx2")
BY_PORT = Upstream(NOBODY, 18081, None)
BY_SOCKET = Upstream(NOBODY, 0, Path("/tmp/model.sock"))


def nginx_conf(case: Case, upstream: Upstream = BY_PORT) -> str:
    return Nginx().set_up(case, 18080, upstream, Path("/tmp/x")).files["nginx.conf"]


def test_every_contestant_has_a_name_of_its_own_and_states_its_conditions() -> None:
    assert len({contestant.name for contestant in CONTESTANTS}) == len(CONTESTANTS)
    assert all(contestant.conditions for contestant in CONTESTANTS)


def test_nginx_limits_only_where_it_is_to_refuse() -> None:
    assert "limit_req_status 429;" in nginx_conf(REFUSED)
    assert "limit_req_status" not in nginx_conf(PROXIED)


def test_nginx_does_not_buffer_streams() -> None:
    assert "proxy_buffering off;" in nginx_conf(SSE)
    assert "proxy_buffering on;" in nginx_conf(PROXIED)


def test_nginx_keeps_its_connections_to_either_upstream() -> None:
    assert "server 127.0.0.1:18081;" in nginx_conf(PROXIED)
    assert "server unix:/tmp/model.sock;" in nginx_conf(SSE, BY_SOCKET)
    assert 'proxy_set_header Connection "";' in nginx_conf(PROXIED)


@pytest.mark.parametrize("case", [*CASES, *VARIED], ids=lambda case: case.name)
def test_corrals_policy_demands_the_key_and_counts_two_quotas(case: Case) -> None:
    policy = tomllib.loads(Corral().set_up(case, 18080, BY_PORT, Path("/tmp/x")).files["corral.toml"])
    assert policy["auth"] == "keys"
    assert policy["keys"][0]["sha256"] == sha256(KEY.encode()).hexdigest()
    assert [limit["per"] for limit in policy["limits"]] == ["client", "address"]
    assert policy["limits"][0]["quota"] == ("1/minute" if case.refuses else "100000/second")
    assert policy["concurrency"]["max_running"] >= 64


@pytest.mark.parametrize("guard", [Corral(), Everything()], ids=lambda guard: guard.name)
def test_corral_checks_the_policy_that_it_is_measured_with(guard: Corral, tmp_path: Path) -> None:
    setup = guard.set_up(PROXIED, 18080, BY_PORT, tmp_path)
    (tmp_path / "corral.toml").write_text(setup.files["corral.toml"])
    command = [sys.executable, "-m", "corral", "check", str(tmp_path / "corral.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_slowapi_gets_the_same_limits() -> None:
    refused = SLOWAPI.set_up(REFUSED, 18080, BY_PORT, Path("/tmp/x")).command
    proxied = SLOWAPI.set_up(SSE, 18080, BY_SOCKET, Path("/tmp/x")).command
    assert refused[-3:] == ("http://127.0.0.1:18081", "1/minute", "httpx2")
    assert proxied[-3:] == ("unix:/tmp/model.sock", "1000000/second", "httpx2")


def test_everything_is_five_limits_and_metrics() -> None:
    policy = tomllib.loads(Everything().set_up(REFUSED, 18080, BY_PORT, Path("/tmp/x")).files["corral.toml"])
    assert [limit["name"] for limit in policy["limits"]] == ["client", "address", "day", "all", "tokens"]
    assert policy["limits"][0]["quota"] == "1/minute"
    assert policy["limits"][-1]["quota"].endswith("tokens/second")
    assert "listen" in policy["admin"]


def test_envoy_limits_only_where_it_is_to_refuse_and_reaches_either_upstream() -> None:
    def envoy_yaml(case: Case, upstream: Upstream = BY_PORT) -> str:
        return Envoy().set_up(case, 18080, upstream, Path("/tmp/x")).files["envoy.yaml"]

    assert "local_ratelimit" in envoy_yaml(REFUSED)
    assert "local_ratelimit" not in envoy_yaml(PROXIED)
    assert "port_value: 18081" in envoy_yaml(PROXIED)
    assert "pipe: {path: /tmp/model.sock}" in envoy_yaml(SSE, BY_SOCKET)


def test_litellm_demands_the_key_and_only_relays() -> None:
    assert [case.name for case in CASES if LiteLlm().plays(case)] == ["proxied"]
    config = LiteLlm().set_up(PROXIED, 18080, BY_PORT, Path("/tmp/x")).files["litellm.yaml"]
    assert f"master_key: {KEY}" in config
    assert "http://127.0.0.1:18081/v1" in config
