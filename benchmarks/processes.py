"""What a process and its children cost, from /proc: CPU seconds, resident memory, open files, threads."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_TICK: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """A process and all below it that are alive."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        try:
            for thread in Path(f"/proc/{one}/task").iterdir():
                waiting += [int(child) for child in (thread / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def cpu_s(pid: int) -> float:
    """User and system time of the tree so far, ended and reaped children included."""
    total = 0
    for one in tree(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(fields[i]) for i in (11, 12, 13, 14))
    return total / _TICK


def own_rss_bytes(pid: int) -> int:
    """Resident memory of the one process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def rss_bytes(pid: int) -> int:
    """Resident memory of the tree; pages that processes share count once for each."""
    total = 0
    for one in tree(pid):
        try:
            total += own_rss_bytes(one)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def peak_rss_bytes(pid: int) -> int:
    """Highest resident memory of the one process since its start, or since `forget_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise KeyError("VmHWM")


def forget_peak(pid: int) -> None:
    """The highest resident memory counts anew from now (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def open_files(pid: int) -> int:
    """File descriptors of the one process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def threads(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


@dataclass
class Watch:
    """Looks at a tree's memory while a load runs. A context manager; peak: the highest sum seen, bytes."""

    pid: int
    every_s: float = 0.2
    before: int = 0
    peak: int = 0
    after: int = 0
    cpu_s: float = 0.0
    _end: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.before = self.peak = rss_bytes(self.pid)
        self.cpu_s = -cpu_s(self.pid)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self.cpu_s += cpu_s(self.pid)
        self.after = rss_bytes(self.pid)
        self.peak = max(self.peak, self.after)

    def _look(self) -> None:
        while not self._end.wait(self.every_s):
            self.peak = max(self.peak, rss_bytes(self.pid))


def end_children_when_ended() -> None:
    """From now on SIGTERM leaves by way of every `finally`, so that the servers a benchmark started end with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def quiet_share(seconds: float = 1.0) -> float:
    """Share of the machine's CPU time that nobody used just now, 0..1: what a figure is worth depends on it."""
    idle, total = _machine()
    time.sleep(seconds)
    later_idle, later_total = _machine()
    return (later_idle - idle) / max(1, later_total - total)


def _machine() -> tuple[int, int]:
    values = [int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return values[3] + values[4], sum(values)
