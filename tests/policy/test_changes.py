"""What differs between two policies, and which differences take a restart."""

from dataclasses import replace

import pytest

from corral.policy.changes import NEEDS_RESTART, RestartError, changed, refuse_change
from corral.policy.load import load_policy
from corral.policy.model import Admin, Generation, Listen, Log, Policy, Quota, Upstream
from corral.policy.reference import reference


def test_each_setting_that_differs_is_named():
    after = replace(
        Policy(), generation=Generation(max_tokens=1, grammar=True), limits=(), max_failed_logins=Quota(1, 1.0)
    )
    assert changed(Policy(), after) == ("max_failed_logins", "limits", "generation.max_tokens", "generation.grammar")
    assert changed(Policy(), Policy()) == ()


@pytest.mark.parametrize(
    ("after", "named"),
    [
        (Policy(listen=Listen(address="127.0.0.1:1")), "listen.address has"),
        (Policy(listen=Listen(tls_certificate="c", tls_key="k")), "listen.tls_certificate has"),
        (Policy(upstream=Upstream(url="http://h:1", dialect="openai")), "upstream.url and upstream.dialect have"),
        (Policy(admin=Admin(listen="127.0.0.1:1"), log=Log(path="x", format="json")),
         "admin.listen, log.path and log.format have"),
    ],
)  # fmt: skip
def test_what_takes_a_restart_is_named(after, named):
    with pytest.raises(RestartError, match=f"^{named} changed, which takes a restart"):
        refuse_change(Policy(), after)


def test_another_certificate_takes_none():
    before = Policy(listen=Listen(tls_certificate="a", tls_key="b"))
    refuse_change(before, Policy(listen=Listen(tls_certificate="c", tls_key="d")))


def test_what_takes_a_restart_exists():
    for name in NEEDS_RESTART:
        assert f"`{name.rpartition('.')[2]}`" in reference() or f"[[{name}]]" in reference()
    load_policy(text='[listen]\naddress = "127.0.0.1:1"')
