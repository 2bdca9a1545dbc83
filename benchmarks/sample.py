"""One request, looked at closely, before a contestant is believed."""

import http.client
from dataclasses import dataclass

from benchmarks.cases import KEY, PATH, Case


class WrongAnswer(Exception):
    """A contestant does not do what its case says; its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def words(self) -> str:
        """Write status and headers in one line."""
        return f"{self.status} " + "; ".join(f"{name}: {value}" for name, value in self.headers)


def ask(case: Case, port: int) -> Sample:
    """Send the first request of `case` by a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    try:
        connection.request("POST", PATH, body=case.bodies()[0], headers=headers)
        answer = connection.getresponse()
        return Sample(answer.status, tuple(answer.getheaders()), answer.read())
    finally:
        connection.close()


def check(case: Case, port: int) -> Sample:
    """Ask until the limit is spent, if `case` is about refusals, and judge the answer. Raises WrongAnswer."""
    sample = ask(case, port)
    if case.refuses:
        sample = ask(case, port)
    wrong = _fault(case, sample)
    if wrong:
        raise WrongAnswer(f"{wrong}: {sample.words}\n{sample.body[:500].decode(errors='replace')}")
    return sample


def _fault(case: Case, sample: Sample) -> str:
    if sample.status != (429 if case.refuses else 200):
        return "unexpected status"
    if case.stream and sample.body.count(b"data: ") != 40:
        return f"{sample.body.count(b'data: ')} events instead of 40"
    if not case.refuses and b'"usage"' not in sample.body:
        return "the answer is not the upstream's"
    return ""
