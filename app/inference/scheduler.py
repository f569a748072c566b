"""Our own bounded pool: a fixed number of threads, a fixed number of places by lane, admission before a body is read.

A place is held from `admit` until the admission is released *and* the jobs run under it are over, so places bound what is in
memory: waiting bodies, queued jobs, running jobs and answers not yet sent. A job whose waiter is gone is skipped if it has not
begun; one that has begun cannot be stopped, and keeps its place until it ends. Who goes next, and who may come in, is said in `lanes`.

Where there are threads for the stat lane alone, an urgent film begins at once though every worker is busy, and the workers then yield
to it: a film that has begun cannot be stopped, but it can be slowed.

The queue is bounded in time as well: a request that could not begin before its deadline, by what is ahead of it and what jobs take
at present, is refused at once. Refusing costs the same however much is waiting, and says after which time a new try is worth it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from app.domain import LANES, Lane, LaneState
from app.errors import UnavailableError
from app.inference.jobs import Admission, Job, State, WithdrawnError
from app.inference.lanes import Lanes, Partition, Places, Reason
from app.inference.pace import Pace

__all__ = ["Admission", "Scheduler", "WithdrawnError"]

T = TypeVar("T")

_RETRY_MIN_S, _RETRY_MAX_S = 1.0, 60.0
_JOIN_S: Final = 5.0
_NICER: Final = 10  # of the workers: a tenth of the weight of the stat threads and the event loop
_STAT: Final[tuple[Lane, ...]] = ("stat",)
_BULK_PARTS: Final = 4  # bulk holds at most a quarter of the shared places


class Scheduler:
    """Runs jobs on its own threads, by lanes. Threads start with the first job.

    Args:
        workers: threads; the jobs that run at one time.
        queue_max: routine and bulk jobs that may wait beside them.
        queue_timeout_s: a job that waited longer is given up. One that has begun is never timed.
        stat_places: places beside those, for the stat lane alone.
        bulk_places: most places that the bulk lane may hold; default: a quarter of workers + queue_max.
        stat_threads: threads beside the workers, for jobs of the stat lane alone.
    """

    def __init__(
        self,
        *,
        workers: int,
        queue_max: int,
        queue_timeout_s: float,
        stat_places: int = 0,
        bulk_places: int | None = None,
        stat_threads: int = 0,
    ) -> None:
        shared = workers + queue_max
        bulk = max(1, shared // _BULK_PARTS) if bulk_places is None else min(bulk_places, shared)
        if workers < 1 or queue_max < 0 or queue_timeout_s <= 0 or min(stat_places, stat_threads) < 0 or bulk < 1:
            raise ValueError(
                f"a scheduler of {workers} workers, {queue_max} places to wait, {stat_places} more for stat, "
                f"{bulk} for bulk, {queue_timeout_s} s"
            )
        self._workers = workers
        self._stat_threads = stat_threads
        self._partition = Partition(shared, bulk, stat_places)
        self._queue_timeout_s = queue_timeout_s
        self._lock = threading.Lock()
        self._work_or_end = threading.Condition(self._lock)
        self._stat_or_end = threading.Condition(self._lock)  # what the threads of the stat lane wait for
        # all below is guarded by the lock
        self._threads: list[threading.Thread] = []
        self._lanes: Lanes[Job[Any]] = Lanes(workers)
        self._places = Places(self._partition)
        self._aside = 0  # jobs that run on the threads of the stat lane
        self._pace = Pace()
        self._expected: dict[Lane, int] = dict.fromkeys(LANES, 0)  # admissions whose first job is still to come
        self._draining = False
        self._closed = False
        self._waiting_for_idle: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def workers(self) -> int:
        return self._workers

    @property
    def threads(self) -> int:
        """Jobs that can run at one time: on the workers, and on the threads of the stat lane."""
        return self._workers + self._stat_threads

    @property
    def places(self) -> int:
        """Most films that can be admitted at one time, all lanes together."""
        return self._partition.all

    def places_of(self, lane: Lane) -> int:
        """Most films of one lane that can be admitted at one time."""
        return self._partition.of(lane)

    @property
    def admitted(self) -> int:
        """Places taken."""
        with self._lock:
            return self._places.taken

    @property
    def queued(self) -> int:
        """Jobs that wait for a thread."""
        with self._lock:
            return len(self._lanes)

    @property
    def running(self) -> int:
        """Jobs on a thread."""
        with self._lock:
            return sum(self._lanes.running.values())

    def states(self) -> tuple[LaneState, ...]:
        """The lanes as they are now."""
        with self._lock:
            now = time.monotonic()
            return tuple(self._state(lane, now) for lane in LANES)

    def check(
        self, n: int = 1, *, lane: Lane = "routine", owner: str = "", begin_within_s: float | None = None
    ) -> None:
        """Raise what `admit` would raise at this moment; take nothing."""
        with self._lock:
            self._refuse(n, lane, owner, begin_within_s)

    def admit(
        self, n: int = 1, *, lane: Lane = "routine", owner: str = "", begin_within_s: float | None = None
    ) -> Admission:
        """Take n places, before the body of the request is read. Never waits.

        Args:
            n: films, judged at one time.
            lane: how urgent.
            owner: id of the key that asks, for turns and shares; "" = the process itself.
            begin_within_s: no job under this admission begins later than so long after now. It can only shorten `queue_timeout_s`.

        Raises:
            UnavailableError: `overloaded` without n free places for this lane and owner, or where what is ahead takes longer than the
                request may wait; it carries the time after which a new try is worth it. `not_ready` when the service is ending.
        """
        with self._lock:
            self._refuse(n, lane, owner, begin_within_s)
            self._places.take(n, lane, owner)
            admission = Admission(
                self, n, lane, owner, None if begin_within_s is None else time.monotonic() + begin_within_s
            )
            self._expected[lane] += 1
            return admission

    async def run(self, job: Callable[[], T], admission: Admission, *, lane: Lane | None = None) -> T:
        """Run `job()` on a worker thread and return what it returns, or raise what it raises.

        A job must begin within `queue_timeout_s` from now; one whose lane is named is a further pass over the film of a request and
        must begin within `queue_timeout_s` from the first job of the admission, so that the passes share one deadline.

        Args:
            job: blocking work.
            admission: open; at most `admission.n` jobs run under it at one time.
            lane: of a further pass, be it the admission's or another; None for every other job, which is in the admission's.

        Raises:
            UnavailableError: `overloaded` when the deadline passed before the job began; `not_ready` when the scheduler was closed.
            WithdrawnError: the admission was withdrawn before the job began.
        """
        entry = Job(job, admission, lane or admission.lane)
        with self._lock:
            self._enqueue(entry, further=lane is not None)
        timer = entry.loop.call_later(max(0.0, entry.deadline - entry.queued_at), self._expire, entry)
        try:
            return await entry.future
        finally:
            timer.cancel()
            with self._lock:
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
            if self._places.taken == 0:
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
            given_up = [job for job in list(self._lanes) if self._withdraw(job)]
            threads = list(self._threads)
            self._work_or_end.notify_all()
            self._stat_or_end.notify_all()
        for job in given_up:
            job.deliver(job.failing(_ending()))
        for thread in threads:
            thread.join(_JOIN_S)

    # on the worker threads

    def _work(self, *, aside: bool) -> None:
        """aside: on a thread of the stat lane."""
        if self._stat_threads and not aside:
            _yield_cores()
        while (job := self._next(aside=aside)) is not None:
            started = time.monotonic()
            outcome = job.execute()
            with self._lock:
                self._ended(job, aside=aside)
                self._pace.took(job.lane, time.monotonic() - started)
            job.deliver(outcome)
            del job, outcome  # an idle thread keeps no film in memory

    def _next(self, *, aside: bool) -> Job[Any] | None:
        """The next job that is still wanted, marked as running; None when the scheduler is closed."""
        waking, lanes = (self._stat_or_end, _STAT) if aside else (self._work_or_end, LANES)
        while True:
            with self._lock:
                job = None
                while not self._closed and (job := self._lanes.take(expected=self._is_expected, lanes=lanes)) is None:
                    waking.wait()
                if job is None:
                    return None
                self._aside += aside
                job.admission.queued.discard(job)
                now = time.monotonic()
                if now < job.deadline:
                    job.state = State.RUNNING
                    self._pace.began(job.lane, now - job.queued_at)
                    return job
                self._ended(job, aside=aside)  # too late, and the loop too busy to have noticed
                late = self._overloaded(job.lane, job.owner, "late")
            job.deliver(job.failing(late))

    # on the event loop

    def _expire(self, job: Job[Any]) -> None:
        """The queue deadline of a job: give it up unless it has begun."""
        with self._lock:
            if not self._withdraw(job):
                return
            late = self._overloaded(job.lane, job.owner, "late")
        job.failing(late)()

    # with the lock

    def _release(self, admission: Admission) -> None:
        with self._lock:
            if not admission.released:
                admission.released = True
                self._came(admission)
                self._free(admission, admission.n - admission.jobs)

    def _withdraw_all(self, admission: Admission) -> None:
        with self._lock:
            admission.withdrawn = True
            gone = [job for job in list(admission.queued) if self._withdraw(job)]
        for job in gone:
            job.deliver(job.failing(WithdrawnError()))

    # under the lock

    @property
    def _is_expected(self) -> bool:
        """Whether bulk work must leave a worker for a job that is about to come."""
        return bool(self._expected["stat"] or self._expected["routine"])

    def _refuse(self, n: int, lane: Lane, owner: str, begin_within_s: float | None) -> None:
        if n < 1:
            raise ValueError(f"an admission of {n} places")
        if self._draining or self._closed:
            raise _ending()
        reason = self._places.refusal(n, lane, owner)
        patience_s = self._queue_timeout_s if begin_within_s is None else min(begin_within_s, self._queue_timeout_s)
        if reason is None and self._wait_s(lane, owner) > patience_s:
            reason = "wait"
        if reason is not None:
            raise self._overloaded(lane, owner, reason)

    def _enqueue(self, job: Job[Any], *, further: bool) -> None:
        """further: a pass after the request's first job.

        Raises:
            RuntimeError: without a place for it; and what `run` raises where it cannot begin at all.
        """
        admission = job.admission
        if admission.released or admission.jobs >= admission.n:
            raise RuntimeError(f"a job without a place: {admission.jobs} of {admission.n} taken")
        if self._closed:
            raise _ending()
        if admission.withdrawn:
            raise WithdrawnError
        latest = job.queued_at + self._queue_timeout_s
        if admission.passes_by is None:
            admission.passes_by = latest
        job.deadline = admission.passes_by if further else latest
        if admission.begin_by is not None:
            job.deadline = min(job.deadline, admission.begin_by)
        if job.deadline <= job.queued_at:
            raise self._overloaded(job.lane, job.owner, "late")
        self._start_threads()  # first: it can fail, and then nothing has been taken
        admission.jobs += 1
        admission.queued.add(job)
        self._lanes[job.lane].push(job)
        self._work_or_end.notify()
        if job.lane == "stat":
            self._stat_or_end.notify()
        self._came(admission)

    def _came(self, admission: Admission) -> None:
        """The first job of an admission is there, or will never come. Bulk work that left a worker for it may go on."""
        if admission.expected:
            admission.expected = False
            self._expected[admission.lane] -= 1
            if self._lanes["bulk"] and not self._is_expected:
                self._work_or_end.notify_all()

    def _withdraw(self, job: Job[Any]) -> bool:
        """Take a job out of the queue; False if it is not there any more."""
        if job.state is not State.QUEUED:
            return False
        self._lanes[job.lane].remove(job)
        job.admission.queued.discard(job)
        self._over(job)
        return True

    def _ended(self, job: Job[Any], *, aside: bool) -> None:
        """A job that a thread had taken."""
        self._lanes.running[job.lane] -= 1
        self._aside -= aside
        self._over(job)

    def _over(self, job: Job[Any]) -> None:
        """A job is done, failed, expired or withdrawn. Its place is free if its admission is gone already."""
        job.state = State.OVER
        job.admission.jobs -= 1
        if job.admission.released:
            self._free(job.admission, 1)

    def _free(self, admission: Admission, places: int) -> None:
        self._places.give_back(places, admission.lane, admission.owner)
        if self._places.taken == 0:
            for loop, idle in self._waiting_for_idle:
                try:
                    loop.call_soon_threadsafe(idle.set)
                except RuntimeError:  # that loop is closed
                    continue

    def _wait_s(self, lane: Lane, owner: str) -> float:
        """Upper estimate of the time until a job of this lane and owner would begin; 0 while a thread that takes it is idle.

        Thread time of what would begin before it (running, waiting and announced by an admission), shared by the workers.
        """
        ahead = dict(self._lanes.running)
        if sum(ahead.values()) - self._aside < self._workers or (lane == "stat" and self._aside < self._stat_threads):
            return 0.0
        for before in LANES[: LANES.index(lane)]:
            ahead[before] += len(self._lanes[before]) + self._expected[before]
        ahead[lane] += self._lanes[lane].ahead(owner) + self._expected[lane]
        return self._pace.work_s(ahead) / self._workers

    def _overloaded(self, lane: Lane, owner: str, reason: Reason) -> UnavailableError:
        """With the time in which what is ahead will have been worked off."""
        self._pace.refused[lane][reason] += 1
        wait_s = self._wait_s(lane, owner)
        return UnavailableError("overloaded", retry_after_s=min(max(wait_s, _RETRY_MIN_S), _RETRY_MAX_S))

    def _state(self, lane: Lane, now: float) -> LaneState:
        oldest = self._lanes[lane].oldest()
        return LaneState(
            lane=lane,
            queued=len(self._lanes[lane]),
            running=self._lanes.running[lane],
            oldest_s=now - oldest.queued_at if oldest else 0.0,
            refused=dict(self._pace.refused[lane].items()),
            begun=self._pace.begun[lane],
            waited_s=self._pace.waited_s[lane],
        )

    def _start_threads(self) -> None:
        while (i := len(self._threads)) < self.threads:
            aside = i >= self._workers
            name = f"cxr-stat-{i - self._workers}" if aside else f"cxr-worker-{i}"
            thread = threading.Thread(target=self._work, kwargs={"aside": aside}, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)


def _yield_cores() -> None:
    """This thread's share of a core becomes small beside that of others, while they want one.

    Source: setpriority(2) and sched(7), Linux: the nice value is per thread, and a weight falls by 1.25 for each step.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + _NICER, 19))


def _ending() -> UnavailableError:
    return UnavailableError("not_ready", retry_after_s=5, reason="shutting down")
