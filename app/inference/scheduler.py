"""Our own bounded pool: a fixed number of threads, a fixed number of places, admission before a body is read.

A place is held from `admit` until the admission is released *and* the jobs run under it are over, so places bound what is in
memory: waiting bodies, queued jobs, running jobs and answers not yet sent. A job whose waiter is gone is skipped if it has not
begun; one that has begun cannot be stopped, and keeps its place until it ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from app.errors import UnavailableError

T = TypeVar("T")

_SMOOTHING = 0.1  # weight of the newest service time in the moving average
_RETRY_MIN_S, _RETRY_MAX_S = 1.0, 60.0
_JOIN_S = 5.0


class _State(Enum):
    QUEUED = 1
    RUNNING = 2
    OVER = 3


class Admission:
    """n places, from `Scheduler.admit`. A context manager; leaving it releases them, once, whatever happened inside."""

    def __init__(self, scheduler: Scheduler, n: int) -> None:
        self._scheduler = scheduler
        self.n = n
        # both guarded by the scheduler's lock
        self.released = False
        self.jobs = 0  # queued or running

    def release(self) -> None:
        """Give the places back; those of jobs that still run follow when these end. More than once does no harm."""
        self._scheduler._release(self)  # noqa: SLF001 (an admission is a part of its scheduler)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class _Job(Generic[T]):
    """A call, who waits for it, and where it stands. `state` is guarded by the scheduler's lock."""

    def __init__(self, call: Callable[[], T], admission: Admission, deadline: float) -> None:
        self.call = call
        self.admission = admission
        self.deadline = deadline
        self.state = _State.QUEUED
        self.context = contextvars.copy_context()  # the request id in the log follows the job to its thread
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()

    def execute(self) -> Callable[[], None]:
        """Run the call; the outcome is what has to be done to the future, on its loop."""
        try:
            result = self.context.run(self.call)
        except StopIteration as error:
            return self.failing(_carrying(error))  # a future does not take it
        except Exception as error:
            return self.failing(error)
        except BaseException as error:  # the thread serves others, it must not end with one job
            return self.failing(_carrying(error))
        return lambda: None if self.future.done() else self.future.set_result(result)

    def failing(self, error: Exception) -> Callable[[], None]:
        return lambda: None if self.future.done() else self.future.set_exception(error)

    def deliver(self, outcome: Callable[[], None]) -> None:
        try:
            self.loop.call_soon_threadsafe(outcome)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


class Scheduler:
    """Runs jobs on its own threads. Threads start with the first job.

    Args:
        workers: threads; the jobs that run at one time.
        queue_max: jobs that may wait beside them. Places = workers + queue_max.
        queue_timeout_s: a job that waited longer is given up. One that has begun is never timed.
    """

    def __init__(self, *, workers: int, queue_max: int, queue_timeout_s: float) -> None:
        if workers < 1 or queue_max < 0 or queue_timeout_s <= 0:
            raise ValueError(f"a scheduler of {workers} workers, {queue_max} places to wait, {queue_timeout_s} s")
        self._workers = workers
        self._places = workers + queue_max
        self._queue_timeout_s = queue_timeout_s
        self._lock = threading.Lock()
        self._work_or_end = threading.Condition(self._lock)
        # all below is guarded by the lock
        self._threads: list[threading.Thread] = []
        self._queue: deque[_Job[Any]] = deque()
        self._running = 0
        self._admitted = 0
        self._draining = False
        self._closed = False
        self._service_s = 0.0  # moving average of a job's time on its thread
        self._waiting_for_idle: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def workers(self) -> int:
        return self._workers

    @property
    def places(self) -> int:
        """Most films that can be admitted at one time."""
        return self._places

    @property
    def admitted(self) -> int:
        """Places taken."""
        with self._lock:
            return self._admitted

    @property
    def queued(self) -> int:
        """Jobs that wait for a thread."""
        with self._lock:
            return len(self._queue)

    @property
    def running(self) -> int:
        """Jobs on a thread."""
        with self._lock:
            return self._running

    def admit(self, n: int = 1) -> Admission:
        """Take n places, before the body of the request is read. Never waits.

        Raises:
            UnavailableError: `overloaded` without n free places, with the time after which a new try is worth it; `not_ready`
                when the service is ending.
        """
        if n < 1:
            raise ValueError(f"an admission of {n} places")
        with self._lock:
            if self._draining or self._closed:
                raise _ending()
            if self._admitted + n > self._places:
                raise self._overloaded()
            self._admitted += n
            return Admission(self, n)

    async def run(self, job: Callable[[], T], admission: Admission) -> T:
        """Run `job()` on a worker thread and return what it returns, or raise what it raises.

        Args:
            job: blocking work.
            admission: open; at most `admission.n` jobs run under it at one time.

        Raises:
            UnavailableError: `overloaded` after `queue_timeout_s` in the queue; `not_ready` when the scheduler was closed.
        """
        entry = _Job(job, admission, time.monotonic() + self._queue_timeout_s)
        with self._lock:
            if admission.released or admission.jobs >= admission.n:
                raise RuntimeError(f"a job without a place: {admission.jobs} of {admission.n} taken")
            if self._closed:
                raise _ending()
            self._start_threads()  # first: it can fail, and then nothing has been taken
            admission.jobs += 1
            self._queue.append(entry)
            self._work_or_end.notify()
        timer = entry.loop.call_later(self._queue_timeout_s, self._expire, entry)
        try:
            return await entry.future
        finally:
            timer.cancel()
            self._withdraw(entry)

    async def drain(self, timeout_s: float) -> bool:
        """Admit nothing more and wait until every place is free.

        Returns:
            False if some were still taken after `timeout_s`.
        """
        idle = asyncio.Event()
        waiter = (asyncio.get_running_loop(), idle)
        with self._lock:
            self._draining = True
            if self._admitted == 0:
                return True
            self._waiting_for_idle.append(waiter)
        try:
            await asyncio.wait_for(idle.wait(), timeout_s)
        except TimeoutError:
            return False
        finally:
            with self._lock:
                self._waiting_for_idle.remove(waiter)
        return True

    def close(self) -> None:
        """End the threads. Queued jobs fail with `not_ready`; running ones are waited for, a few seconds. Harmless twice."""
        with self._lock:
            self._closed = True
            given_up = list(self._queue)
            self._queue.clear()
            for job in given_up:
                self._over(job)
            threads = list(self._threads)
            self._work_or_end.notify_all()
        for job in given_up:
            job.deliver(job.failing(_ending()))
        for thread in threads:
            thread.join(_JOIN_S)

    # on the worker threads

    def _work(self) -> None:
        while (job := self._next()) is not None:
            started = time.monotonic()
            outcome = job.execute()
            with self._lock:
                self._running -= 1
                took = time.monotonic() - started
                self._service_s += (took - self._service_s) * (_SMOOTHING if self._service_s else 1.0)
                self._over(job)
            job.deliver(outcome)
            del job, outcome  # an idle thread keeps no film in memory

    def _next(self) -> _Job[Any] | None:
        """The next job that is still wanted, marked as running; None when the scheduler is closed."""
        while True:
            with self._lock:
                while not self._queue and not self._closed:
                    self._work_or_end.wait()
                if self._closed:
                    return None
                job = self._queue.popleft()
                if time.monotonic() < job.deadline:
                    job.state = _State.RUNNING
                    self._running += 1
                    return job
                self._over(job)  # too late, and the loop too busy to have noticed
                late = self._overloaded()
            job.deliver(job.failing(late))

    # on the event loop

    def _expire(self, job: _Job[Any]) -> None:
        """The queue deadline of a job: give it up unless it has begun."""
        with self._lock:
            if job.state is not _State.QUEUED:
                return
            self._queue.remove(job)
            self._over(job)
            late = self._overloaded()
        job.failing(late)()

    def _withdraw(self, job: _Job[Any]) -> None:
        """Nobody waits any more."""
        with self._lock:
            if job.state is _State.QUEUED:
                self._queue.remove(job)
                self._over(job)

    # with or under the lock

    def _release(self, admission: Admission) -> None:
        with self._lock:
            if not admission.released:
                admission.released = True
                self._free(admission.n - admission.jobs)

    def _over(self, job: _Job[Any]) -> None:
        """A job is done, failed, expired or withdrawn. Its place is free if its admission is gone already."""
        job.state = _State.OVER
        job.admission.jobs -= 1
        if job.admission.released:
            self._free(1)

    def _free(self, places: int) -> None:
        self._admitted -= places
        if self._admitted == 0:
            for loop, idle in self._waiting_for_idle:
                try:
                    loop.call_soon_threadsafe(idle.set)
                except RuntimeError:  # that loop is closed
                    continue

    def _overloaded(self) -> UnavailableError:
        """With the time in which the present queue will have been worked off."""
        ahead = len(self._queue) + self._running
        wait_s = self._service_s * ahead / self._workers
        return UnavailableError("overloaded", retry_after_s=min(max(wait_s, _RETRY_MIN_S), _RETRY_MAX_S))

    def _start_threads(self) -> None:
        while len(self._threads) < self._workers:
            thread = threading.Thread(target=self._work, name=f"cxr-worker-{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)


def _ending() -> UnavailableError:
    return UnavailableError("not_ready", retry_after_s=5, reason="shutting down")


def _carrying(error: BaseException) -> RuntimeError:
    wrapped = RuntimeError(f"a job ended with {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped
