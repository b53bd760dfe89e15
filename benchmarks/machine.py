"""What the figures were measured on."""

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ["shm-async", "cffi", "anyio", "uvloop", "trio", "numpy"]
PACKAGES += ["filelock", "portalocker", "fasteners", "aiorwlock", "redis", "psycopg"]


def facts() -> dict[str, object]:
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "kernel": f"{platform.system()} {platform.release()}",
        "cpu": _first("/proc/cpuinfo", "model name") or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "load average": os.getloadavg()[0],
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {package: _version(package) for package in PACKAGES},
    }


def line(found: dict[str, object]) -> str:
    """The facts that a figure's caption needs."""
    return f"{found['kernel']}, {found['cpus']} CPUs ({found['cpu']}), {found['python']}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # no scenario that needs it can run
        return "not installed"


def _first(path: str, key: str) -> str:
    with open(path) as lines:
        for each in lines:
            name, _, value = each.partition(":")
            if name.strip() == key:
                return " ".join(value.split())
    return ""
