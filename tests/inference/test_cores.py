from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.inference.cores import usable_cores


@pytest.fixture(autouse=True)
def eight_by_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/cpu,cpuacct"
NESTED_V2 = {"proc/self/cgroup": "0::/a/b\n"}
NESTED_V1 = {"proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/c\n1:name=systemd:/x\n"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),  # no cgroups at all
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "250000 100000\n"}, 2),  # rounded down
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "10000 100000\n"}, 1),  # never below one
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "1600000 100000\n"}, 8),  # affinity is less
        ({**NESTED_V2, f"{V2}/a/b/cpu.max": "max 100000", f"{V2}/a/cpu.max": "300000 100000"}, 3),  # a parent's quota
        ({**NESTED_V2, f"{V2}/a/b/cpu.max": "400000 100000", f"{V2}/a/cpu.max": "500000 100000"}, 4),
        ({**NESTED_V2, f"{V2}/cpu.max": "600000 100000"}, 6),  # the path does not exist inside the container
        ({"proc/self/cgroup": "0::/../../x\n", f"{V2}/cpu.max": "500000 100000"}, 5),
        ({**NESTED_V1, f"{V1}/docker/c/cpu.cfs_quota_us": "150000", f"{V1}/docker/c/cpu.cfs_period_us": "50000"}, 3),
        ({**NESTED_V1, f"{V1}/docker/c/cpu.cfs_quota_us": "-1", f"{V1}/docker/c/cpu.cfs_period_us": "100000"}, 8),
        ({**NESTED_V1, f"{V1}/cpu.cfs_quota_us": "200000", f"{V1}/cpu.cfs_period_us": "100000"}, 2),
        ({**NESTED_V1, f"{V2}/cpu/cpu.cfs_quota_us": "200000", f"{V2}/cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "nonsense"}, 8),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "100000 0"}, 8),
        ({"proc/self/cgroup": "garbage"}, 8),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert usable_cores(write(tmp_path, files)) == cores


def test_this_machine_has_at_least_one() -> None:
    assert usable_cores() >= 1
