"""What lets several films be decoded at once: the GIL is released, no library brings threads of its own, nothing spins, and neither the
file nor its pixels are copied without need."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from app.bundle.input_spec import InputSpec
from app.bundle.store import BundleRef, BundleStore
from app.domain import Radiograph
from app.imaging.codecs import decode_jpeg_gray, decode_png_gray
from app.imaging.decode import ImageLimits, decode
from app.imaging.jpeg_header import read_jpeg_header
from app.imaging.phantom import encode_jpeg, encode_png, phantom
from app.imaging.png_header import read_png_header
from app.inference.engine import OnnxRuntimeEngine
from app.preprocessing import prepare
from tests.support.image_bytes import exif, exif_segment, with_segment

ROOT = Path(__file__).resolve().parents[2]
LIMITS = ImageLimits(min_px=1, max_px=4_096)
SPEC = InputSpec.model_validate(
    {
        "size": 64,
        "channels": 1,
        "resize": "stretch",
        "sixteen_bit": "significant_bits",
        "reduced_decode": True,
        "normalisation": {"kind": "per_image", "std_floor": 8.0},
    }
)
SIDE = 512
FILM = phantom(3, height=SIDE, width=SIDE)


# --- the GIL

TRIES = 100
_NEVER_S = 1_000.0


@contextmanager
def _switching_only_by_release() -> Iterator[None]:
    """Nobody is made to give up the GIL: another thread runs only where the running one lets go of it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_NEVER_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def lets_others_run(call: Callable[[], object]) -> bool:
    """Whether a thread that waits for the GIL gets it while `call` runs, in one of `TRIES` calls."""
    wake, ran, end = threading.Semaphore(0), threading.Event(), threading.Event()

    def other() -> None:
        while wake.acquire() and not end.is_set():
            ran.set()

    thread = threading.Thread(target=other)
    thread.start()
    call()
    released = False
    with _switching_only_by_release():
        for _ in range(TRIES):
            ran.clear()
            wake.release()
            call()
            if ran.is_set():
                released = True
                break
            ran.wait()  # let it run now, so that the next try begins as the first
    end.set()
    wake.release()
    thread.join()
    return released


def _jpeg(data: bytes, *, reduced: bool) -> Callable[[], object]:
    header = read_jpeg_header(memoryview(data), LIMITS)
    return lambda: decode_jpeg_gray(memoryview(data), header, reduced=reduced)


def _png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Callable[[], object]:
    data = memoryview(encode_png(pixels))
    header = read_png_header(data, LIMITS)
    return lambda: decode_png_gray(data, header)


def demo_engine() -> OnnxRuntimeEngine:
    """Of the bundle for phantoms, 64 px."""
    return OnnxRuntimeEngine(BundleStore(ROOT / "model_bundles").verify(BundleRef("phantom-demo", "1.0.0")).network)


def _network() -> Callable[[], object]:
    engine = demo_engine()
    tensor = prepare(Radiograph(FILM, "", "png"), SPEC).tensor
    return lambda: engine.run(tensor)


STEPS: dict[str, Callable[[], Callable[[], object]]] = {
    "hash": lambda: lambda: hashlib.sha256(FILM.data).hexdigest(),
    "checksums of a PNG": lambda: lambda: zlib.crc32(FILM.data),
    "JPEG": lambda: _jpeg(encode_jpeg(FILM), reduced=False),
    "JPEG at half of its size": lambda: _jpeg(encode_jpeg(FILM), reduced=True),
    "PNG": lambda: _png(FILM),
    "PNG of 16 bits": lambda: _png(FILM.astype(np.uint16) * 257),
    "preprocessing": lambda: lambda: prepare(Radiograph(FILM, "", "png"), SPEC),
    "preprocessing of 16 bits": lambda: lambda: prepare(Radiograph(FILM.astype(np.uint16) * 257, "", "png"), SPEC),
    "network": _network,
}


@pytest.mark.parametrize("step", STEPS)
def test_each_step_lets_other_threads_run(step: str) -> None:
    assert lets_others_run(STEPS[step]())


def test_the_measure_sees_a_step_that_holds_the_lock() -> None:
    assert not lets_others_run(lambda: sum(range(5_000)))


# --- threads

_QUIET = """
import os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np, cv2, threadpoolctl
from app.imaging.decode import ImageLimits, decode, limit_threads
from app.imaging.phantom import encode_jpeg, phantom
from app.preprocessing import prepare
from tests.imaging.test_threads_and_copies import SPEC, demo_engine
if sys.argv[1] == "limited":
    limit_threads()
engine = demo_engine()
data, limits = encode_jpeg(phantom(1, height=1024, width=1024)), ImageLimits(1, 4096)
matrix = np.random.default_rng(0).random((300, 300))
def work(_):
    engine.run(prepare(decode(data, limits), SPEC).tensor)
    return float((matrix @ matrix)[0, 0])
def busy():  # CPU ticks of every thread
    return {t: sum(map(int, open(f"/proc/self/task/{t}/stat").read().rsplit(")")[1].split()[11:13])) for t in os.listdir("/proc/self/task")}
with ThreadPoolExecutor(2) as pool:
    list(pool.map(work, range(4)))
    before = busy()
    list(pool.map(work, range(24)))
    after = busy()
    workers = {str(t.native_id) for t in threading.enumerate()}
    others = sum(n - before.get(t, 0) for t, n in after.items() if t not in workers)
    time.sleep(0.2)
    cpu = time.process_time()
    time.sleep(0.5)
    cpu = time.process_time() - cpu
    blas = max(p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas")
    print(cv2.getNumThreads(), blas, others, cpu)
"""


def _quiet(how: str) -> tuple[int, int, int, float]:
    """In a process of its own, where every library would take four threads: OpenCV's and BLAS's threads, CPU ticks that threads beside
    the workers used while films were judged, CPU seconds of half an idle second."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"}
    command = [sys.executable, "-c", _QUIET, how]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    opencv, blas, others, idle = done.stdout.split()
    return int(opencv), int(blas), int(others), float(idle)


def test_the_workers_are_the_only_threads_that_work() -> None:
    opencv, blas, others, idle = _quiet("limited")
    assert (opencv, blas) == (1, 1)
    assert others <= 2  # ticks of 10 ms: the interpreter's own
    assert idle < 0.1  # nothing spins


def test_left_alone_the_libraries_would_bring_their_own() -> None:
    """The control of the test before."""
    cores = len(os.sched_getaffinity(0))
    if cores == 1:
        pytest.skip("one core: OpenBLAS makes no pool")
    assert _quiet("as they are")[1] == min(4, cores)  # OpenBLAS makes no more threads than there are cores


def test_the_image_keeps_the_libraries_from_making_pools() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    base = text[text.index(" AS base") : text.index(" AS service-venv")]
    assert dict(re.findall(r"\b(O[A-Z]+_[A-Z_]+)=(\w+)", base)) == {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }


# --- copies


def traced_peak(call: Callable[[], object]) -> int:
    """Most bytes that `call` had allocated at one time, what it returns included; what C libraries take by themselves is not seen."""
    call()
    tracemalloc.start()
    try:
        result = call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        del result


SMALL = 64_000
NOISE = np.random.default_rng(1).integers(
    0, 256, (SIDE, SIDE), dtype=np.uint8
)  # so that the files are as large as the pixels


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_a_jpeg_is_decoded_without_a_copy_of_file_or_pixels(
    buffer: type[bytes] | type[bytearray] | type[memoryview],
) -> None:
    data = encode_jpeg(NOISE, 100)
    assert len(data) > SIDE * SIDE // 2
    assert traced_peak(lambda: decode(buffer(data) if buffer is memoryview else data, LIMITS)) < SIDE * SIDE + SMALL
    assert traced_peak(lambda: decode(data, LIMITS, network=SPEC)) < SIDE * SIDE // 4 + SMALL


def test_turning_a_film_upright_is_one_copy_and_only_where_it_lies() -> None:
    data = with_segment(encode_jpeg(NOISE, 100), exif_segment(exif(6)))
    assert SIDE * SIDE * 2 <= traced_peak(lambda: decode(data, LIMITS)) < SIDE * SIDE * 2 + SMALL


def test_a_png_is_copied_once() -> None:
    data = encode_png(NOISE)
    assert traced_peak(lambda: decode(data, LIMITS)) < len(data) + SIDE * SIDE + SMALL


def test_preprocessing_does_not_copy_an_eight_bit_film() -> None:
    film = Radiograph(NOISE, "", "png")
    cropped = SPEC.model_copy(update={"border_crop": None, "reduced_decode": False})
    assert (
        traced_peak(lambda: prepare(film, cropped)) < SIDE * SIDE // 2 + SMALL
    )  # two strips of its brightness, two small inputs


def test_the_film_is_the_decoders_own_array() -> None:
    pixels = decode(encode_jpeg(FILM), LIMITS).pixels
    assert pixels.base is not None  # a view on what the decoder gave
    assert pixels.flags.c_contiguous
    assert cv2.countNonZero(pixels) > 0
