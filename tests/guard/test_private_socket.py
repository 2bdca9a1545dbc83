import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.errors import UpstreamError
from corral.guard.private_socket import PrivateSocket


@pytest.fixture
def base() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="crl"))
    yield path
    shutil.rmtree(path)


def bind(path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    return server


def test_only_this_user_may_enter_its_directory(base: Path) -> None:
    private = PrivateSocket({"XDG_RUNTIME_DIR": str(base)})
    (directory,) = base.iterdir()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert Path(private.path).parent == directory
    assert private.path.endswith(".sock")
    private.close()
    assert list(base.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/fd")
def test_once_taken_it_has_no_name_and_still_connects(base: Path) -> None:
    private = PrivateSocket({"XDG_RUNTIME_DIR": str(base)})
    assert not private.take()
    with bind(private.path) as server, socket.socket(socket.AF_UNIX) as client:
        assert private.take()
        assert private.take()
        assert list(base.iterdir()) == []
        client.connect(private.url.removeprefix("unix:"))
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"hello")
            assert client.recv(5) == b"hello"
    private.close()
    private.close()


def test_what_a_server_left_in_it_is_removed(base: Path) -> None:
    private = PrivateSocket({"XDG_RUNTIME_DIR": str(base)})
    with bind(private.path):
        private.close()
    assert list(base.iterdir()) == []


def test_leftovers_of_a_killed_process_are_removed_and_living_ones_kept(base: Path) -> None:
    living = PrivateSocket({"XDG_RUNTIME_DIR": str(base)})
    script = (
        "import os, signal; from corral.guard.private_socket import PrivateSocket; "
        "PrivateSocket(os.environ); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "XDG_RUNTIME_DIR": str(base)}, check=False)
    assert len(list(base.iterdir())) == 2
    another = PrivateSocket({"XDG_RUNTIME_DIR": str(base)})
    assert {path.name for path in base.iterdir()} == {Path(p.path).parent.name for p in (living, another)}
    living.close()
    another.close()


def test_foreign_things_of_that_name_are_left_alone(base: Path) -> None:
    (base / "corral-abcdefgh").mkdir()
    (base / "corral-abcdefgh" / "notes").write_text("mine")
    (base / "corral-12345678").write_text("a file")
    (base / "corral-00000000").symlink_to(base)
    PrivateSocket({"XDG_RUNTIME_DIR": str(base)}).close()
    assert len(list(base.iterdir())) == 3


def test_a_path_too_long_for_a_socket_is_not_chosen(base: Path) -> None:
    long = base / ("x" * 90)
    long.mkdir()
    private = PrivateSocket({"XDG_RUNTIME_DIR": str(long)})
    assert len(private.path) <= 100
    assert list(long.iterdir()) == []
    private.close()


def test_nowhere_to_go_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UpstreamError, match="TMPDIR"):
        PrivateSocket({})
