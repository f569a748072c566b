"""How many cores this process may really use. A container's quota does not show in `os.cpu_count()`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUP = Path("sys/fs/cgroup")


def usable_cores(root: Path = Path("/")) -> int:
    """The smallest of CPU affinity and every cgroup quota above this process, rounded down, at least 1.

    Args:
        root: where `proc` and `sys` are looked for.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (`cpu.max`: "$MAX $PERIOD" in us, or "max") and
    Documentation/scheduler/sched-bwc.rst (`cpu.cfs_quota_us`, -1 = no limit; `cpu.cfs_period_us`).
    """
    limits = [float(len(os.sched_getaffinity(0))), *_quotas(root)]
    return max(1, math.floor(min(limits)))


def _quotas(root: Path) -> Iterator[float]:
    """Cores by quota, for each cgroup above this process that has one."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            for folder in _upwards(root / _CGROUP, path):
                yield from _cores(_read(folder / "cpu.max").split())
        elif "cpu" in controllers.split(","):
            for mount in {controllers, "cpu"}:
                for folder in _upwards(root / _CGROUP / mount, path):
                    yield from _cores([_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")])


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it. Inside a container the path may not exist below the mount; the mount itself does."""
    parts = [part for part in PurePosixPath(path).parts if part != "/"]
    if ".." in parts:  # the group lies outside what this namespace shows
        parts = []
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def _cores(fields: list[str]) -> Iterator[float]:
    """quota / period, nothing where there is no limit."""
    if len(fields) == 2 and all(field.isdecimal() for field in fields) and int(fields[1]) > 0:
        yield int(fields[0]) / int(fields[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
