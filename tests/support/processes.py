"""What /proc says of a running service and its decoder children: who they are, what they hold in memory, what others can read of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
GONE = (FileNotFoundError, ProcessLookupError)


def children(pid: int) -> tuple[int, ...]:
    """Pids of the direct children, zombies left out, oldest first."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(*GONE):
                fields = _stat(int(folder.name))
                if int(fields[1]) == pid and fields[0] != "Z":
                    found.append((int(fields[19]), int(folder.name)))
    return tuple(number for _, number in sorted(found))


def age_s(pid: int) -> float:
    """Seconds since the process started; 0 where it is gone."""
    with suppress(*GONE):
        up = float(Path("/proc/uptime").read_text().split()[0])
        return up - int(_stat(pid)[19]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def status_bytes(pid: int, field: str) -> int:
    """A memory field of /proc/<pid>/status (`VmRSS`, `VmHWM`, ...); 0 where the process is gone."""
    with suppress(*GONE):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


@dataclass
class Memory:
    """Highest resident memory while it was watched, in bytes: of one child, and of the service with all its children together."""

    child: int = 0
    together: int = 0


@contextmanager
def watched_memory(pid: int) -> Iterator[Memory]:
    """Sample a service and its children every few milliseconds while the block runs."""
    seen, stop = Memory(), threading.Event()

    def sample() -> None:
        while not stop.wait(0.02):
            found = children(pid)
            seen.child = max([seen.child, *(status_bytes(child, "VmHWM") for child in found)])
            seen.together = max(seen.together, sum(status_bytes(p, "VmRSS") for p in (pid, *found)))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def wait_for_children(
    pid: int, count: int, besides: Container[int] = (), old_s: float = 3, limit_s: float = 60
) -> tuple[int, ...]:
    """Wait until the service has that many children, `besides` left out, that live for `old_s` already, and so have started up."""
    until = time.monotonic() + limit_s
    while True:
        found = tuple(child for child in children(pid) if child not in besides and age_s(child) > old_s)
        if len(found) >= count:
            return found
        assert time.monotonic() < until, f"{len(found)} of {count} children after {limit_s} s"
        time.sleep(0.05)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat (proc(5)) from the third, the state, on."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
