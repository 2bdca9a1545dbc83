"""Where the figures were taken: a figure without its machine says nothing."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("corral", "uvloop", "httptools", "orjson", "fastapi", "slowapi", "httpx2", "httpx", "uvicorn")


def describe() -> dict[str, str | int]:
    """Describe processor, kernel and the versions that took part."""
    found: dict[str, str | int] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "system": _pretty_name(),
        "python": platform.python_version(),
        "python_from": sys.base_prefix,
        "nginx": _said(["nginx", "-v"], r"nginx/(\S+)"),
        "wrk": _said(["wrk", "-v"], r"wrk (?:debian/)?(\S+)"),
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def _cpu_model() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match.group(1) if match else platform.machine()


def _pretty_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _said(command: Sequence[str], pattern: str) -> str:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return "absent"
    match = re.search(pattern, ended.stdout + ended.stderr)
    return match.group(1) if match else "unknown"
