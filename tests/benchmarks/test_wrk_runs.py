import json

import pytest
from benchmarks.cases import CASES, KEY, VARIED
from benchmarks.wrk import WrkError, parse, script

OUTPUT = """\
Running 3s test @ http://127.0.0.1:18080
  1 threads and 64 connections
  300 requests in 3.00s, 1.00MB read
  Non-2xx or 3xx responses: 12
Requests/sec:    100.00
wrk-result {"requests":300,"microseconds":3000000,"not_ok":12,"broken":1,"p50":2500.000000,"p99":9000.000000}
"""


def test_a_run_is_read_from_the_line_of_the_script() -> None:
    load = parse(OUTPUT, cpu_seconds=1.5)
    assert (load.requests, load.per_second, load.not_ok, load.broken) == (300, 100.0, 12, 1)
    assert (load.p50_ms, load.p99_ms, load.client_cpu) == (2.5, 9.0, 0.5)


def test_output_without_the_line_is_an_error_that_shows_it() -> None:
    with pytest.raises(WrkError, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:18080 Connection refused\n")


def test_every_request_carries_the_key_and_a_body_of_about_300_bytes() -> None:
    for case in (*CASES, *VARIED):
        assert f'wrk.headers["Authorization"] = "Bearer {KEY}"' in script(case)
        for body in case.bodies():
            assert 280 <= len(body) <= 340
            assert json.loads(body)["stream"] is case.stream
            assert body in script(case)


def test_varied_bodies_differ_in_length() -> None:
    bodies = VARIED[0].bodies()
    assert len({len(body) for body in bodies}) == len(bodies) == 16
