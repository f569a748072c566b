"""Decoding compressed frames in child processes that may die: one costs its film a coded error and nobody else anything.

Codecs are the part of a DICOM reader that crashes: python-gdcm 3.2.6 reaches abort() on a JPEG-LS stream of other sides than its
header, and no `except` catches that. JPEG and PNG films, and uncompressed DICOM, never come here.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import ImageError, UnavailableError
from app.imaging.dicom.codestreams import check_codestream
from app.imaging.dicom.decoder_protocol import ANSWER_BYTES, DECODED, OUT_OF_MEMORY, READY, Job, unpack_answer
from app.imaging.dicom.frame import FrameRequest

_START_S = 30.0  # an interpreter, numpy and three codecs; half a second on an idle machine


class _LostError(Exception):
    """The child is of no use any more; `what` is for the client."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(what)


class DecoderPool:
    """`FrameDecoder` over up to `size` child processes. Safe to use from any number of threads.

    size: children, and so frames decoded at once; more wait. timeout_s: for one frame, and again for a free child.
    memory_bytes: address space of one child (RLIMIT_AS). Children start when they are needed, or by `warm`, and start anew by
    themselves after they were lost, also while starting; `restarts` counts that.
    """

    def __init__(self, size: int, timeout_s: float, memory_bytes: int) -> None:
        self.restarts = 0
        self._size = size
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        # last in, first out: a quiet service keeps one child busy and lets the others be swapped out
        self._places: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(size):
            self._places.put(None)
        self._lock = threading.Lock()
        self._children: set[_Child] = set()
        # PR_SET_PDEATHSIG fires when the *thread* that started the child ends (prctl(2)), so that all are started by this one
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="decoder-starter")

    def warm(self) -> None:
        """Start all children in the background, so that no film waits for one."""
        for child in self._drain():
            if child is None:
                self._starter.submit(self._refill)
            else:
                self._places.put(child)

    def close(self) -> None:
        """End all children; frames being decoded fail, later ones are answered `not_ready`."""
        self._starter.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            for busy in self._children:
                busy.kill()  # who is waiting for it sees it end, and then closes its socket
        for child in self._drain():
            if child is not None:
                child.end()
        for _ in range(self._size):  # so that nobody waits for a child that will not come
            self._places.put(None)

    def decode(self, request: FrameRequest) -> NDArray[Any]:
        """See `FrameDecoder.decode`.

        Raises:
            ImageError: as promised there.
            UnavailableError: `overloaded` when no child became free in time, `not_ready` when none can be started.
        """
        job = Job.of(request, check_codestream(request).precision)
        child = self._take()
        try:
            samples = child.decode(job, request.codestream, self._timeout_s)
        except _LostError as error:
            self._replace(child)
            raise ImageError("undecodable_image", what=error.what) from None
        except BaseException:
            self._replace(child)
            raise
        self._places.put(child)
        if samples is None:
            raise ImageError("undecodable_image", what="its decoder found it damaged")
        return samples

    def _command(self) -> list[str]:
        return [sys.executable, "-I", "-m", "app.imaging.dicom.decoder_process", str(self._memory_bytes)]

    def _take(self) -> _Child:
        try:
            child = self._places.get(timeout=self._timeout_s)
        except queue.Empty:
            raise UnavailableError("overloaded", retry_after_s=1) from None
        if child is not None and child.alive:
            return child
        try:
            if child is not None:  # ended while it had nothing to do: no film's fault
                self._forget(child)
            return self._starter.submit(self._start).result()
        except BaseException as error:
            self._places.put(None)
            if isinstance(error, _LostError | OSError | RuntimeError | CancelledError):  # the latter two: closed
                raise UnavailableError(
                    "not_ready", retry_after_s=1, reason="no decoder process can be started"
                ) from error
            raise

    def _start(self) -> _Child:
        child = _Child(self._command())
        try:
            child.await_ready(_START_S)
        except BaseException:
            self._forget(child)
            raise
        with self._lock:
            self._children.add(child)
        return child

    def _refill(self) -> None:
        """Fill one place of which nobody knows any more. Where no child starts, the next film tries again, and says so."""
        child = None
        try:
            child = self._start()
        finally:
            self._places.put(child)

    def _drain(self) -> list[_Child | None]:
        """All places that nobody holds."""
        places: list[_Child | None] = []
        with contextlib.suppress(queue.Empty):
            while True:
                places.append(self._places.get_nowait())
        return places

    def _replace(self, child: _Child) -> None:
        self._forget(child)
        try:
            self._starter.submit(self._refill)
        except RuntimeError:  # closed meanwhile
            self._places.put(None)

    def _forget(self, child: _Child) -> None:
        child.end()
        with self._lock:
            self._children.discard(child)
            self.restarts += 1


class _Child:
    """One decoder process and our end of its socket. Used by one thread at a time."""

    def __init__(self, command: list[str]) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._serial = 0
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603  our own interpreter and module
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # codecs print what they read
                    cwd="/",
                    env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # ours may hold secrets
                    start_new_session=True,
                )
            except BaseException:
                self._channel.close()
                raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def await_ready(self, timeout_s: float) -> None:
        """Raises: _LostError."""
        if self._receive(len(READY), time.monotonic() + timeout_s) != READY:
            raise _LostError("its decoder answered nonsense")

    def decode(self, job: Job, codestream: bytes, timeout_s: float) -> NDArray[Any] | None:
        """The samples, or None for a damaged codestream. Nothing the child says decides how much is read: `job` does.

        Raises:
            _LostError: it died, took too long, needed too much memory, or answered nonsense.
        """
        deadline = time.monotonic() + timeout_s
        self._serial = (self._serial + 1) & 0xFFFF
        memory = os.memfd_create("frame", os.MFD_CLOEXEC)
        try:
            _write(memory, codestream)
            try:
                self._channel.settimeout(timeout_s)
                socket.send_fds(self._channel, [job.pack(self._serial)], [memory])
            except OSError:
                raise _LostError("its decoder ended") from None
            try:
                outcome = unpack_answer(self._receive(ANSWER_BYTES, deadline), job, self._serial)
            except ValueError:
                raise _LostError("its decoder answered nonsense") from None
            if outcome == OUT_OF_MEMORY:
                raise _LostError("it needs more memory than its decoder may have")
            return _samples(memory, job) if outcome == DECODED else None
        finally:
            os.close(memory)

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """Kill it, reap it, close our end."""
        self._process.kill()
        self._channel.close()
        self._process.wait()

    def _receive(self, size: int, deadline: float) -> bytes:
        self._channel.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            packet = self._channel.recv(size + 1)
        except TimeoutError:
            raise _LostError("it took too long") from None
        except OSError:
            raise _LostError("its decoder ended") from None
        if not packet:
            raise _LostError("its decoder ended")
        return packet


def _write(memory: int, data: bytes) -> None:
    view = memoryview(data)
    at = 0
    while at < len(view):
        at += os.pwrite(memory, view[at:], at)


def _samples(memory: int, job: Job) -> NDArray[Any]:
    """Read, not mapped: a child that shortens the file can only make the read short, never kill us by SIGBUS."""
    shape = (job.rows, job.columns) if job.samples == 1 else (job.rows, job.columns, 3)
    samples = np.empty(shape, f"<{'i' if job.signed else 'u'}{job.bits_allocated // 8}")
    view = samples.reshape(-1).data.cast("B")
    at = 0
    while at < len(view):
        count = os.preadv(memory, [view[at:]], job.codestream_bytes + at)
        if count == 0:
            raise _LostError("its decoder answered nonsense")
        at += count
    return samples
