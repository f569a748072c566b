"""One loop per test, real threads, no clock but the real one. Events, not sleeps, decide what happens when."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import pytest

from app.errors import UnavailableError
from app.inference.scheduler import Admission, Scheduler

T = TypeVar("T")


@contextmanager
def scheduler(workers: int = 1, queue_max: int = 2, queue_timeout_s: float = 10.0) -> Iterator[Scheduler]:
    running = Scheduler(workers=workers, queue_max=queue_max, queue_timeout_s=queue_timeout_s)
    try:
        yield running
    finally:
        running.close()


class Gate:
    """A job that waits to be let through, and says when it has begun."""

    def __init__(self, answer: Any = None) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()
        self.answer = answer

    def __call__(self) -> Any:
        self.begun.set()
        assert self.open.wait(10)
        return self.answer


async def until(condition: Any) -> None:
    """Wait for something another thread does."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        await asyncio.sleep(0.002)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def held(s: Scheduler, n: int) -> list[Admission]:
    return [s.admit() for _ in range(n)]


def test_a_job_s_answer_and_its_thread() -> None:
    async def main() -> None:
        with scheduler() as s, s.admit() as admission:
            name = await s.run(lambda: threading.current_thread().name, admission)
            assert name == "cxr-worker-0"

    run(main())


def test_a_job_s_error_reaches_its_waiter() -> None:
    async def main() -> None:
        with scheduler() as s:
            with pytest.raises(ZeroDivisionError), s.admit() as admission:
                await s.run(lambda: 1 // 0, admission)
            assert (s.admitted, s.running, s.queued) == (0, 0, 0)

    run(main())


@pytest.mark.parametrize("error", [StopIteration(), SystemExit(), KeyboardInterrupt(), asyncio.CancelledError()])
def test_no_error_ends_a_worker(error: BaseException) -> None:
    def job() -> None:
        raise error

    async def main() -> None:
        with scheduler(workers=1) as s, s.admit() as admission:
            with pytest.raises(RuntimeError, match=f"ended with {type(error).__name__}") as raised:
                await s.run(job, admission)
            assert raised.value.__cause__ is error
            assert await s.run(lambda: 7, admission) == 7

    run(main())


def test_threads_start_with_the_first_job_and_end_with_close() -> None:
    async def main() -> None:
        before = threading.active_count()
        with scheduler(workers=3) as s:
            assert threading.active_count() == before
            with s.admit() as admission:
                await s.run(lambda: None, admission)
            assert threading.active_count() == before + 3
        assert threading.active_count() == before

    run(main())


def test_places_are_workers_and_queue() -> None:
    with scheduler(workers=2, queue_max=3) as s:
        assert (s.places, s.workers) == (5, 2)
        admissions = held(s, 5)
        with pytest.raises(UnavailableError) as full:
            s.admit()
        assert (full.value.code, full.value.status, full.value.retry_after_s) == ("overloaded", 503, 1.0)
        admissions[0].release()
        s.admit()
        assert s.admitted == 5


def test_a_batch_takes_all_its_places_or_none() -> None:
    with scheduler(workers=1, queue_max=3) as s:
        s.admit()
        with pytest.raises(UnavailableError):
            s.admit(4)
        assert s.admitted == 1
        with s.admit(3):
            assert s.admitted == 4
        assert s.admitted == 1
        with pytest.raises(ValueError, match="admission of 0"):
            s.admit(0)


def _release_and_fail(admission: Admission) -> None:
    with admission:
        admission.release()
        raise KeyError


def test_an_admission_is_released_once() -> None:
    with scheduler() as s:
        other, admission = s.admit(), s.admit()
        with pytest.raises(KeyError):
            _release_and_fail(admission)
        admission.release()
        assert s.admitted == 1
        other.release()
        assert s.admitted == 0


def test_no_more_jobs_than_places_at_one_time() -> None:
    async def main() -> None:
        with scheduler(workers=2) as s:
            gate = Gate()
            with s.admit() as admission:
                first = asyncio.create_task(s.run(gate, admission))
                await until(gate.begun.is_set)
                with pytest.raises(RuntimeError, match="1 of 1 taken"):
                    await s.run(lambda: None, admission)
                gate.open.set()
                await first
                assert await s.run(lambda: 1, admission) == 1  # one after the other is allowed
            with pytest.raises(RuntimeError, match="without a place"):
                await s.run(lambda: None, admission)

    run(main())


def test_a_job_that_waits_too_long_is_given_up() -> None:
    async def main() -> None:
        with scheduler(workers=1, queue_timeout_s=0.5) as s:
            gate, late = Gate("first"), Gate()
            with s.admit() as one, s.admit() as two:
                first = asyncio.create_task(s.run(gate, one))
                await until(gate.begun.is_set)
                with pytest.raises(UnavailableError) as refused:
                    await s.run(late, two)
                assert refused.value.code == "overloaded"
                assert s.queued == 0
                gate.open.set()
                assert await first == "first"  # ran far longer than the queue deadline: that is not its business
            assert not late.begun.is_set()

    run(main())


def test_the_deadline_holds_when_the_loop_is_too_busy_to_notice() -> None:
    async def main() -> None:
        with scheduler(workers=1, queue_timeout_s=0.5) as s:
            gate, late = Gate(), Gate()
            with s.admit() as one, s.admit() as two:
                first = asyncio.create_task(s.run(gate, one))
                await until(gate.begun.is_set)
                second = asyncio.create_task(s.run(late, two))
                await until(lambda: s.queued == 1)
                time.sleep(0.6)  # noqa: ASYNC251 (the loop is blocked on purpose)
                gate.open.set()
                time.sleep(0.3)  # noqa: ASYNC251
                with pytest.raises(UnavailableError):
                    await second
                await first
            assert not late.begun.is_set()

    run(main())


def test_a_job_whose_waiter_left_is_skipped_if_not_begun() -> None:
    async def main() -> None:
        with scheduler(workers=1) as s:
            gate, skipped = Gate(), Gate()

            async def request(job: Gate) -> None:
                with s.admit() as admission:
                    await s.run(job, admission)

            first = asyncio.create_task(request(gate))
            await until(gate.begun.is_set)
            second = asyncio.create_task(request(skipped))
            await until(lambda: s.queued == 1)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            assert (s.queued, s.admitted) == (0, 1)
            gate.open.set()
            await first
            assert not skipped.begun.is_set()

    run(main())


def test_a_job_that_has_begun_keeps_its_place_when_its_waiter_leaves() -> None:
    async def main() -> None:
        with scheduler(workers=1, queue_max=0) as s:
            gate = Gate()

            async def request() -> None:
                with s.admit() as admission:
                    await s.run(gate, admission)

            task = asyncio.create_task(request())
            await until(gate.begun.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (s.running, s.admitted) == (1, 1)
            with pytest.raises(UnavailableError):
                s.admit()
            gate.open.set()
            await until(lambda: s.admitted == 0)
            assert s.running == 0

    run(main())


def test_a_batch_that_is_left_frees_what_has_not_begun() -> None:
    async def main() -> None:
        with scheduler(workers=1, queue_max=4) as s:
            gates = [Gate() for _ in range(4)]

            async def batch() -> None:
                with s.admit(4) as admission:
                    await asyncio.gather(*(s.run(gate, admission) for gate in gates))

            task = asyncio.create_task(batch())
            await until(lambda: s.running == 1 and s.queued == 3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: s.queued == 0)
            assert s.admitted == 1
            gates[0].open.set()
            await until(lambda: s.admitted == 0)
            assert [gate.begun.is_set() for gate in gates] == [True, False, False, False]

    run(main())


def test_one_bad_job_of_a_batch_spoils_no_other() -> None:
    async def main() -> None:
        with scheduler(workers=2, queue_max=4) as s:

            def job(i: int) -> int:
                if i == 2:
                    raise ValueError("bad")
                return i * i

            with s.admit(5) as admission:
                jobs = [s.run(partial(job, i), admission) for i in range(5)]
                results = await asyncio.gather(*jobs, return_exceptions=True)
            assert [r if isinstance(r, int) else str(r) for r in results] == [0, 1, "bad", 9, 16]
            assert s.admitted == 0

    run(main())


def test_jobs_run_in_the_order_in_which_they_came() -> None:
    async def main() -> None:
        with scheduler(workers=1, queue_max=10) as s:
            order: list[int] = []
            gate = Gate()
            with s.admit(9) as admission:
                jobs = [asyncio.create_task(s.run(gate, admission))]
                await until(gate.begun.is_set)
                jobs += [asyncio.create_task(s.run(partial(order.append, i), admission)) for i in range(8)]
                await until(lambda: s.queued == 8)
                gate.open.set()
                await asyncio.gather(*jobs)
            assert order == list(range(8))

    run(main())


def test_context_follows_a_job() -> None:
    request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")

    async def request(s: Scheduler, name: str) -> str:
        request_id.set(name)
        with s.admit() as admission:
            return await s.run(request_id.get, admission)

    async def main() -> None:
        with scheduler(workers=2, queue_max=10) as s:
            names = [f"r{i}" for i in range(10)]
            assert await asyncio.gather(*(request(s, name) for name in names)) == names

    run(main())


def test_retry_after_grows_with_service_time_and_queue() -> None:
    async def main() -> None:
        with scheduler(workers=1, queue_max=4) as s:
            s._pace.took("routine", 3.0)
            gate = Gate()
            with s.admit(5) as admission:
                jobs = [asyncio.create_task(s.run(gate, admission)) for _ in range(4)]
                await until(lambda: s.running + s.queued == 4 and s.running == 1)
                with pytest.raises(UnavailableError) as refused:
                    s.admit()
                assert refused.value.retry_after_s == pytest.approx(12.0)
                gate.open.set()
                await asyncio.gather(*jobs)
            assert s._pace.service_s("routine") < 3.0

    run(main())


def test_drain_admits_nothing_and_waits_for_the_rest() -> None:
    async def main() -> None:
        with scheduler(workers=1) as s:
            gate = Gate("done")

            async def request() -> Any:
                with s.admit() as admission:
                    return await s.run(gate, admission)

            task = asyncio.create_task(request())
            await until(gate.begun.is_set)
            assert await s.drain(0.02) is False
            with pytest.raises(UnavailableError) as refused:
                s.admit()
            assert refused.value.code == "not_ready"
            draining = asyncio.create_task(s.drain(10))
            await asyncio.sleep(0.02)
            assert not draining.done()
            gate.open.set()
            assert await task == "done"
            assert await draining is True
            assert await s.drain(0) is True

    run(main())


def test_close_fails_what_waits_and_is_harmless_twice() -> None:
    async def main() -> None:
        s = Scheduler(workers=1, queue_max=2, queue_timeout_s=10)
        gate = Gate("done")
        with s.admit() as one, s.admit() as two:
            first = asyncio.create_task(s.run(gate, one))
            await until(gate.begun.is_set)
            second = asyncio.create_task(s.run(lambda: None, two))
            await until(lambda: s.queued == 1)
            closing = threading.Thread(target=s.close)
            closing.start()
            with pytest.raises(UnavailableError) as refused:
                await second
            assert refused.value.code == "not_ready"
            with pytest.raises(UnavailableError):
                await s.run(lambda: None, two)
            gate.open.set()
            assert await first == "done"
            await asyncio.to_thread(closing.join)
        with pytest.raises(UnavailableError):
            s.admit()
        s.close()
        assert s.admitted == 0

    run(main())


def test_an_answer_for_a_closed_loop_is_dropped() -> None:
    s = Scheduler(workers=1, queue_max=2, queue_timeout_s=10)
    gate = Gate()

    async def leaves() -> None:
        with s.admit() as admission:
            task = asyncio.create_task(s.run(gate, admission))
            await until(gate.begun.is_set)
            task.cancel()

    run(leaves())
    gate.open.set()
    for _ in range(1_000):
        if s.admitted == 0:
            break
        time.sleep(0.005)
    assert s.admitted == 0

    async def next_loop() -> int:
        with s.admit() as admission:
            return await s.run(lambda: 5, admission)

    assert run(next_loop()) == 5  # the worker lives
    s.close()


def test_impossible_settings_are_refused() -> None:
    for bad in ({"workers": 0}, {"queue_max": -1}, {"queue_timeout_s": 0.0}):
        settings: dict[str, Any] = {"workers": 1, "queue_max": 1, "queue_timeout_s": 1.0, **bad}
        with pytest.raises(ValueError, match="a scheduler of"):
            Scheduler(**settings)
