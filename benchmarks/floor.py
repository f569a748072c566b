"""`python -m benchmarks.floor ROOT BUNDLE SECONDS ENGINE`: what the machine can do at best, in a process of its own.

Decode, preprocessing and network on all cores, one thread per core, no HTTP, no audit trail, no gate. Prints JSON. With ENGINE `none`
decode and preprocessing alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from app.bundle.store import BundleRef, BundleStore
from app.imaging.decode import ImageLimits, decode, limit_threads
from app.inference.cores import usable_cores
from app.preprocessing import prepare
from benchmarks.engines import build
from benchmarks.films import films
from benchmarks.processes import peak_rss_bytes

FILM_PX = 1_024
LIMITS = ImageLimits(128, 4_096)


@dataclass(frozen=True)
class Floor:
    """per_s: films per second; cpu_ms: per film; peak_rss: bytes."""

    engine: str
    per_s: float
    cpu_ms: float
    peak_rss: int
    seconds: float
    films: int
    cores: int


def floor(root: Path, ref: BundleRef, seconds: float, engine: str) -> Floor:
    """Measure in a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.floor", str(root), str(ref), str(seconds), engine]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the floor was not measured: {done.stderr[-2000:]}")
    return Floor(**json.loads(done.stdout.splitlines()[-1]))


def _judge(root: Path, ref: BundleRef, engine: str) -> Callable[[bytes], object]:
    bundle = BundleStore(root).verify(ref)
    spec = bundle.manifest.input
    if engine == "none":
        return lambda data: prepare(decode(data, LIMITS), spec)
    run = build(bundle, engine, usable_cores()).run
    return lambda data: run(prepare(decode(data, LIMITS), spec).tensor)


def _measure(root: Path, ref: BundleRef, seconds: float, engine: str) -> Floor:
    limit_threads()
    judge, given = _judge(root, ref, engine), films("jpeg", FILM_PX, 8)

    def one(i: int) -> None:
        judge(given[i % len(given)])

    cores = usable_cores()

    def until(end: float) -> int:
        n = 0
        while time.perf_counter() < end:
            one(n)
            n += 1
        return n

    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(one, range(16)))
        cpu, start = time.process_time(), time.perf_counter()
        done = sum(pool.map(until, [start + seconds] * cores))
        took = time.perf_counter() - start
    cpu_ms = (time.process_time() - cpu) / done * 1e3
    return Floor(engine, done / took, cpu_ms, peak_rss_bytes(os.getpid()), took, done, cores)


if __name__ == "__main__":
    found = _measure(Path(sys.argv[1]), BundleRef.parse(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
    print(json.dumps(found.__dict__))
