"""Children that die, hang, eat memory or lie: one coded error each, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jpeg_ls
import numpy as np
import openjpeg.utils
import pytest

from app.errors import ImageError, UnavailableError
from app.imaging.dicom.decoder_protocol import HTJ2K_LOSSLESS, JPEG_2000_LOSSLESS
from app.imaging.dicom.decoders import DecoderPool
from app.imaging.dicom.frame import FrameRequest
from tests.support import htj2k_streams, misbehaving_decoder
from tests.support.dicom_frames import dataset, pattern, recode, request
from tests.support.misbehaving_decoder import BAD_COLUMNS

MEMORY = 1_000_000_000
JPEG_LS = "1.2.840.10008.1.2.4.80"


class MisbehavingPool(DecoderPool):
    """The real pool with the children of tests/support/misbehaving_decoder.py."""

    def __init__(self, behaviour: str, size: int = 1, timeout_s: float = 60) -> None:
        self.behaviour = behaviour
        super().__init__(size, timeout_s, MEMORY)

    def _command(self) -> list[str]:
        return [sys.executable, "-I", misbehaving_decoder.__file__, str(MEMORY), self.behaviour]


def frame(columns: int = 40, rows: int = 24) -> FrameRequest:
    pixels = np.random.default_rng(columns).integers(0, 256, (rows, columns), np.uint8)
    coded = bytes(jpeg_ls.encode_array(pixels))
    return FrameRequest(JPEG_LS, coded, rows, columns, 1, 8, 8, False, "MONOCHROME2")


def expected(columns: int = 40, rows: int = 24) -> Any:
    return np.random.default_rng(columns).integers(0, 256, (rows, columns), np.uint8)


BAD = frame(BAD_COLUMNS)


@contextmanager
def closing(pool: DecoderPool) -> Iterator[DecoderPool]:
    try:
        yield pool
    finally:
        pool.close()


def one_of_each(folder: Path) -> list[FrameRequest]:
    """A sound frame for each codec and each way into it."""
    eight, twelve = pattern(72, 90, bits=8), pattern(72, 90, bits=12)
    plain = dataset(twelve, 12)
    jpeg_2000 = openjpeg.utils.encode_array(twelve, bits_stored=12)
    openjph = {"rows": htj2k_streams.ROWS, "columns": htj2k_streams.COLUMNS, "bits_stored": 16}
    return [
        request(recode(dataset(eight, 8), folder, "dcmcjpeg", "+eb")),
        request(recode(plain, folder, "dcmcjpeg", "+ee")),
        request(recode(plain, folder, "dcmcjpeg", "+e1")),
        request(recode(plain, folder, "dcmcjpls")),
        request(recode(plain, folder, "dcmcrle")),
        request(plain, transfer_syntax=JPEG_2000_LOSSLESS, codestream=jpeg_2000),
        request(plain, transfer_syntax=HTJ2K_LOSSLESS, codestream=htj2k_streams.GRAY_16, **openjph),
    ]


def code_and_detail(call: Any) -> tuple[str, str]:
    with pytest.raises(ImageError) as caught:
        call()
    return caught.value.code, caught.value.detail


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("abort", "ended"),
        ("gdcm", "ended"),
        ("exit", "ended"),
        ("exception", "ended"),
        ("nothing", "ended"),
        ("memory", "more memory"),
        ("rubbish", "nonsense"),
        ("too long", "nonsense"),
        ("huge", "nonsense"),
        ("other serial", "nonsense"),
        ("other size", "nonsense"),
        ("unknown outcome", "nonsense"),
        ("no samples", "nonsense"),
    ],
)
def test_costs_one_coded_error(behaviour: str, said: str) -> None:
    with closing(MisbehavingPool(behaviour)) as pool:
        np.testing.assert_array_equal(pool.decode(frame()), expected())
        code, detail = code_and_detail(lambda: pool.decode(BAD))
        assert code == "undecodable_image"
        assert said in detail
        np.testing.assert_array_equal(pool.decode(frame()), expected())
        assert pool.restarts == 1


def test_the_library_still_aborts() -> None:
    """Why there are processes at all. When this fails, gdcm was mended: say so in the guide, and keep the processes."""
    run = "from tests.support.misbehaving_decoder import gdcm_that_aborts; gdcm_that_aborts()"
    root = Path(misbehaving_decoder.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", run], cwd=root, timeout=60, check=False, capture_output=True)
    assert done.returncode == -signal.SIGABRT


@pytest.mark.parametrize("behaviour", ["sleep", "spin"])
def test_a_child_that_takes_too_long_is_ended(behaviour: str) -> None:
    with closing(MisbehavingPool(behaviour, timeout_s=2)) as pool:
        pool.decode(frame())
        before = pids(pool)
        assert "too long" in code_and_detail(lambda: pool.decode(BAD))[1]
        assert gone(before)
        np.testing.assert_array_equal(pool.decode(frame()), expected())


def test_other_threads_notice_nothing() -> None:
    """Two threads decode while the films of a third abort their children again and again."""
    with closing(MisbehavingPool("abort", size=3)) as pool, ThreadPoolExecutor(3) as threads:
        pool.warm()
        stop = threading.Event()

        def good(columns: int) -> int:
            request, pixels, done = frame(columns), expected(columns), 0
            while not stop.is_set() or done == 0:
                np.testing.assert_array_equal(pool.decode(request), pixels)
                done += 1
            return done

        others = [threads.submit(good, columns) for columns in (40, 41)]
        codes = [code_and_detail(lambda: pool.decode(BAD))[0] for _ in range(5)]
        stop.set()
        assert all(other.result(timeout=60) > 0 for other in others)
        assert codes == ["undecodable_image"] * 5
        assert pool.restarts == 5


def test_a_child_killed_while_idle_costs_nobody_anything() -> None:
    with closing(DecoderPool(1, 60, MEMORY)) as pool:
        pool.decode(frame())
        (pid,) = pids(pool)
        os.kill(pid, signal.SIGKILL)
        assert gone([pid])
        np.testing.assert_array_equal(pool.decode(frame()), expected())
        assert pool.restarts == 1


def test_a_child_killed_while_it_starts_is_counted(tmp_path: Path) -> None:
    starting = tmp_path / "pid"

    class Slow(DecoderPool):
        def _command(self) -> list[str]:
            if starting.exists():
                return super()._command()
            program = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(3_600)"
            return [sys.executable, "-I", "-c", program, str(starting)]

    with closing(Slow(1, 60, MEMORY)) as pool:
        pool.warm()
        wait_for(lambda: starting.exists() and starting.read_text())
        os.kill(int(starting.read_text()), signal.SIGKILL)
        np.testing.assert_array_equal(pool.decode(frame()), expected())
        assert pool.restarts == 1


def test_a_child_outlives_the_thread_that_wanted_it() -> None:
    """PR_SET_PDEATHSIG is about threads, not processes: a child started by the asking thread would die with it."""
    with closing(DecoderPool(1, 60, MEMORY)) as pool:
        thread = threading.Thread(target=pool.decode, args=(frame(),))
        thread.start()
        thread.join(60)
        np.testing.assert_array_equal(pool.decode(frame()), expected())
        assert pool.restarts == 0


def test_damaged_codestreams_do_not_cost_a_child() -> None:
    whole = frame(200, 200)
    with closing(DecoderPool(1, 60, MEMORY)) as pool:
        for cut in (60, 2_000, len(whole.codestream) // 2):
            damaged = FrameRequest(**(vars(whole) | {"codestream": whole.codestream[:cut] + b"\xff\xd9"}))
            code, detail = code_and_detail(lambda damaged=damaged: pool.decode(damaged))
            assert (code, "damaged" in detail) == ("undecodable_image", True)
        assert pool.restarts == 0


def test_no_free_child_in_time_is_overload() -> None:
    with closing(DecoderPool(1, 0.5, MEMORY)) as pool:
        place = pool._places.get()  # as a thread has it that decodes
        with pytest.raises(UnavailableError) as caught:
            pool.decode(frame())
        assert (caught.value.code, caught.value.retry_after_s) == ("overloaded", 1)
        pool._places.put(place)
        DecoderPool.decode(pool, frame())


def test_no_child_can_be_started() -> None:
    class Broken(DecoderPool):
        def _command(self) -> list[str]:
            return [sys.executable, "-I", "-c", "raise SystemExit(1)"]

    with closing(Broken(1, 60, MEMORY)) as pool:
        for _ in range(3):  # and the place is not lost
            with pytest.raises(UnavailableError) as caught:
                pool.decode(frame())
            assert caught.value.code == "not_ready"


def test_after_close() -> None:
    pool = DecoderPool(2, 60, MEMORY)
    pool.warm()
    pool.decode(frame())
    children = pids(pool)
    pool.close()
    assert gone(children)
    for _ in range(3):
        with pytest.raises(UnavailableError):
            pool.decode(frame())


def test_close_ends_a_frame_being_decoded() -> None:
    pool = MisbehavingPool("sleep")
    pool.decode(frame())
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.decode, BAD)
        wait_for(lambda: pool._places.qsize() == 0)
        pool.close()
        with pytest.raises(ImageError):
            waiting.result(timeout=60)


def test_one_pool_leaks_nothing() -> None:
    """Memory files and sockets are closed on every path; the places are all there at the end."""
    with closing(MisbehavingPool("abort", size=2)) as pool:
        pool.warm()
        wait_for(lambda: pool._places.qsize() == 2 and len(pids(pool)) == 2)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            pool.decode(frame())
            code_and_detail(lambda: pool.decode(BAD))
        wait_for(lambda: pool._places.qsize() == 2)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert len(pids(pool)) == 2


@pytest.mark.parametrize("seed", range(4))
def test_mutated_codestreams(seed: int, tmp_path: Path) -> None:
    """Bytes changed behind the codestream's header, in all codecs: samples or a coded error, and the pool goes on."""
    random = np.random.default_rng(seed)
    with closing(DecoderPool(2, 60, MEMORY)) as pool:
        for sound in one_of_each(tmp_path):
            for _ in range(12):
                data = np.frombuffer(sound.codestream, np.uint8).copy()
                at = random.integers(0, data.size, random.integers(1, 30))
                data[at] = random.integers(0, 256, at.size)
                mutant = replace(sound, codestream=data.tobytes()[: data.size - int(random.integers(0, 9))])
                try:
                    said: Any = pool.decode(mutant).shape
                except ImageError as error:
                    said = error.code
                assert said in ((sound.rows, sound.columns), "undecodable_image")
        np.testing.assert_array_equal(pool.decode(frame()), expected())


# ---- the parent ends without a word


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in a codec"])
def test_no_child_outlives_its_parent(busy: bool) -> None:
    program = """
import threading
from tests.imaging.dicom.test_decoders import BAD, MisbehavingPool, frame, pids
pool = MisbehavingPool("spin", size=2)
pool.decode(frame())
{busy}
print(*pids(pool), flush=True)
threading.Event().wait(60)
"""
    one_spins = "threading.Thread(target=pool.decode, args=(BAD,)).start(); pool.decode(frame())"
    root = Path(misbehaving_decoder.__file__).parents[2]
    source = program.format(busy=one_spins if busy else "")
    parent = subprocess.Popen([sys.executable, "-c", source], cwd=root, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        children = [int(word) for word in parent.stdout.readline().split()]
        assert len(children) == (2 if busy else 1)
        assert not gone(children, within_s=0)
        parent.kill()
        parent.wait(60)
    assert gone(children)


def pids(pool: DecoderPool) -> list[int]:
    return [child.pid for child in pool._children]


def gone(children: list[int], within_s: float = 30) -> bool:
    """No such process, or one whose new parent (PID 1 of a container) has not reaped it yet."""

    def ended(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return True

    end = time.monotonic() + within_s
    while not all(ended(pid) for pid in children):
        if time.monotonic() >= end:
            return False
        time.sleep(0.02)
    return True


def wait_for(condition: Any, within_s: float = 60) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
