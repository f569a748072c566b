"""What this machine computes on, in words that replicas on alike machines share: a measurement made on one holds for the others."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from app.inference.cores import usable_cores

_MODEL = ("model name", "CPU part", "Processor")  # x86; ARM, where the parts have numbers only
_FLAGS = ("flags", "Features")
_MODEL_MAX_CHARS = 96


def fingerprint(cores: int | None = None, root: Path = Path("/")) -> str:
    """`<CPU model>; flags <12 hex digits>; <n> cores`.

    Args:
        cores: that are used; default those that this process may use.
        root: where `proc` is looked for.

    Source: Linux, Documentation/filesystems/proc.rst (`cpuinfo`); the first processor stands for all.
    """
    facts: dict[str, str] = {}
    for line in _cpuinfo(root).splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    model = next((facts[name] for name in _MODEL if facts.get(name)), "unknown CPU")
    flags = " ".join(sorted(next((facts[name] for name in _FLAGS if name in facts), "").split()))
    digest = hashlib.sha256(flags.encode()).hexdigest()[:12]
    return f"{model[:_MODEL_MAX_CHARS]}; flags {digest}; {cores or usable_cores(root)} cores"


def runtimes() -> str:
    """`onnxruntime 1.31.1, openvino 2026.4.1`: what is installed to run networks. Imports none of it."""
    found = []
    for name in ("onnxruntime", "onnxruntime-gpu", "openvino"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def process_age_s() -> float | None:
    """Seconds since this process began, interpreter and imports included, to 10 ms; None where /proc does not tell.

    Source: proc_pid_stat(5), field 22 (starttime, in clock ticks since boot); the name in field 2 may hold spaces.
    """
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return round(time.clock_gettime(time.CLOCK_BOOTTIME) - started_s, 2)
    except (OSError, ValueError, IndexError):
        return None


def _cpuinfo(root: Path) -> str:
    try:
        return (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").replace("\0", "")
    except OSError:
        return ""
