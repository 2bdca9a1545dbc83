from benchmarks.memory import CLIENT_BAR, bytes_a_client


def test_a_counted_client_takes_few_bytes() -> None:
    assert bytes_a_client(100_000) <= CLIENT_BAR
