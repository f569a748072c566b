"""strace on a running process, as a context manager."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here")


@contextmanager
def traced(pid: int, calls: str, trace: Path) -> Iterator[None]:
    """Write the system calls of a process and its threads to a file while the block runs; attached when the block begins."""
    command = ["strace", "-f", "-yy", "-s", "9000", "-e", f"trace={calls}", "-o", str(trace), "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        tracer.stderr.readline()  # "attached"
        try:
            yield
            time.sleep(0.3)
        finally:
            tracer.terminate()
