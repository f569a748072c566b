"""A disk whose every sync takes so many milliseconds: a shim of ten lines of C between the service and the C library.

Group commit is only tested by a disk that makes the writer wait; the disk of a test machine often answers in 0.1 ms.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

_SOURCE: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
static void wait_ms(void) {
    double ms = atof(getenv("CXR_BENCH_FSYNC_MS"));
    struct timespec t = {(time_t)(ms / 1e3), (long)(ms * 1e6) % 1000000000L};
    nanosleep(&t, 0);
}
#define SLOW(name) int name(int fd) { \\
    static int (*real)(int); if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, #name); \\
    int result = real(fd); wait_ms(); return result; }
SLOW(fsync)
SLOW(fdatasync)
"""


def slow_disk(folder: Path, ms: float) -> dict[str, str] | None:
    """Variables with which a process gets such a disk; None where there is no C compiler.

    Raises:
        subprocess.CalledProcessError: the shim does not compile.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source, library = folder / "slow_disk.c", folder / "slow_disk.so"
    source.write_text(_SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "CXR_BENCH_FSYNC_MS": f"{ms:g}"}
