"""Files that change under a guard: rewritten, replaced, reached through links, or gone for a moment."""

import os
from pathlib import Path

from corral.guard.file_watch import FileWatch


def told(watch: FileWatch) -> bool:
    """Look until it is told, or until two looks find nothing new."""
    return True in [watch.changed() for _ in range(3)]


def test_a_file_left_alone_is_no_news(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    watch = FileWatch([tmp_path / "a", tmp_path / "none"])
    assert not told(watch)


def test_a_change_is_told_once_and_when_it_has_lasted(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1")
    watch = FileWatch([path])
    path.write_text("12")
    assert [watch.changed(), watch.changed(), watch.changed()] == [False, True, False]
    path.write_text("123")
    assert not watch.changed()
    path.write_text("1234")
    assert [watch.changed(), watch.changed(), watch.changed()] == [False, True, False]


def test_a_file_that_is_replaced_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1")
    watch = FileWatch([path])
    status = path.stat()
    (tmp_path / "new").write_text("2")
    os.utime(tmp_path / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    (tmp_path / "new").rename(path)
    assert told(watch)


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes renews a ConfigMap: the file is a link into `..data`, which is itself a link that is replaced."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "corral.toml").write_text(version)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "corral.toml").symlink_to("..data/corral.toml")
    watch = FileWatch([tmp_path / "corral.toml"])
    (tmp_path / "..tmp").symlink_to("v2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    assert told(watch)


def test_a_file_that_is_gone_for_a_moment_is_told_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1")
    watch = FileWatch([path])
    path.unlink()
    assert not watch.changed()
    path.write_text("2")
    assert told(watch)


def test_what_is_read_already_is_no_news(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1")
    watch = FileWatch([path])
    path.write_text("12")
    watch.accept()
    assert not told(watch)
