"""Decoding within bounds: memory of the whole hostile corpus, large films one at a time, one thread per call."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import cv2
import pytest

from app.imaging import decode as decode_module
from app.imaging import memory as memory_module
from app.imaging.codecs import decode_jpeg_gray
from app.imaging.decode import ImageLimits, decode, limit_threads
from app.imaging.phantom import encode_jpeg, phantom
from tests.support.hostile import hostile_images

LIMITS = ImageLimits(min_px=128, max_px=4_096)


def test_large_decodes_pass_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = 0, 0
    lock = threading.Lock()
    real = decode_jpeg_gray

    def slow(*args: object, **options: object) -> object:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        with lock:
            inside -= 1
        return real(*args, **options)  # type: ignore[arg-type]  # passed through as received

    monkeypatch.setattr(decode_module, "decode_jpeg_gray", slow)
    data = encode_jpeg(phantom(1, height=200, width=200))

    def together() -> int:
        nonlocal most
        most = 0
        threads = [threading.Thread(target=decode, args=(data, LIMITS)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return most

    assert together() > 1
    monkeypatch.setattr(memory_module, "LARGE_DECODE_BYTES", 200 * 200 - 1)
    assert together() == 1


_RSS_SCRIPT = """
import sys, threading
from app.errors import CxrError
from app.imaging.decode import ImageLimits, decode, limit_threads
limit_threads()
files = sys.stdin.buffer.read()
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
import numpy
idle, at = peak(), 0
while at < len(files):
    size = int.from_bytes(files[at:at + 8], "big")
    try:
        decode(memoryview(files)[at + 8:at + 8 + size], ImageLimits(128, 4096))
    except CxrError:
        pass
    at += 8 + size
print(idle // 1024, peak() // 1024)
"""


@pytest.mark.slow
def test_the_corpus_decodes_in_bounded_memory() -> None:
    files = b"".join(len(case.data).to_bytes(8, "big") + case.data for case in hostile_images())
    done = subprocess.run(
        [sys.executable, "-c", _RSS_SCRIPT], input=files, capture_output=True, check=True, timeout=120
    )
    idle, peak = map(int, done.stdout.split())
    print(f"hostile corpus: idle {idle} MiB, peak {peak} MiB")
    assert peak - idle <= 300


def test_limit_threads_leaves_opencv_one() -> None:
    before = cv2.getNumThreads()
    try:
        limit_threads()
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)
