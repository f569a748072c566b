"""Lanes, deadlines, withdrawal and the bound in time, one rule at a time. What must hold in any mix is in `test_scheduler_machine`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from functools import partial
from typing import Any

import pytest

from app.domain import LANES, Lane
from app.errors import UnavailableError
from app.inference.jobs import WithdrawnError
from app.inference.scheduler import Admission, Scheduler
from tests.inference.test_scheduler import Gate, run, scheduler, until


def refused(s: Scheduler, **asked: Any) -> UnavailableError:
    with pytest.raises(UnavailableError) as caught:
        s.admit(**asked)
    assert caught.value.code == "overloaded"
    return caught.value


def counts(s: Scheduler, lane: Lane) -> dict[str, int]:
    (state,) = [state for state in s.states() if state.lane == lane]
    return {reason: n for reason, n in state.refused.items() if n}


async def begun(s: Scheduler, gate: Gate, admission: Admission, lane: Lane | None = None) -> asyncio.Task[Any]:
    task = asyncio.create_task(s.run(gate, admission, lane=lane))
    await until(gate.begun.is_set)
    return task


def test_stat_goes_first_and_bulk_last() -> None:
    async def main() -> None:
        with scheduler(workers=1, queue_max=20) as s:
            order: list[str] = []
            gate = Gate()
            first = await begun(s, gate, s.admit())
            lanes: tuple[Lane, ...] = ("bulk", "routine", "bulk", "stat", "routine", "stat")
            jobs = [
                asyncio.create_task(s.run(partial(order.append, f"{lane}{i}"), s.admit(lane=lane)))
                for i, lane in enumerate(lanes)
            ]
            await until(lambda: s.queued == 6)
            gate.open.set()
            await asyncio.gather(first, *jobs)
            assert order == ["stat3", "stat5", "routine1", "routine4", "bulk0", "bulk2"]

    run(main())


def test_stat_finds_a_place_when_all_others_are_taken() -> None:
    s = Scheduler(workers=1, queue_max=3, queue_timeout_s=10, stat_places=2)
    assert (s.places, s.places_of("stat"), s.places_of("routine"), s.places_of("bulk")) == (6, 6, 4, 1)
    bulk = s.admit(lane="bulk")
    refused(s, lane="bulk")
    for _ in range(3):
        s.admit()
    refused(s)
    first = s.admit(lane="stat")
    s.admit(lane="stat")
    refused(s, lane="stat")
    bulk.release()
    s.admit(lane="stat")  # stat may take what others left
    refused(s, lane="bulk")  # it has its share free, but no place is
    first.release()
    s.admit(lane="bulk")
    assert counts(s, "routine") == {"full": 1}
    assert counts(s, "bulk") == {"full": 2}
    assert counts(s, "stat") == {"full": 1}
    s.close()


def test_one_key_cannot_take_every_place() -> None:
    s = Scheduler(workers=1, queue_max=7, queue_timeout_s=10)
    for _ in range(6):
        s.admit(owner="greedy")
    refused(s, owner="greedy")
    assert counts(s, "routine") == {"share": 1}
    s.admit(owner="modest")
    s.admit(owner="other")
    refused(s, owner="third")
    assert counts(s, "routine") == {"share": 1, "full": 1}
    s.close()


def test_looking_takes_nothing() -> None:
    s = Scheduler(workers=1, queue_max=0, queue_timeout_s=10)
    for _ in range(3):
        s.check()
    assert s.admitted == 0
    s.admit()
    with pytest.raises(UnavailableError):
        s.check()
    with pytest.raises(ValueError, match="admission of 0"):
        s.check(0)
    s.close()


def test_bulk_leaves_a_worker_for_who_is_expected_and_goes_on_when_nobody_comes() -> None:
    async def main() -> None:
        with scheduler(workers=2, queue_max=18) as s:
            gates = [Gate() for _ in range(3)]
            uploading = s.admit()  # its body is still on the way
            bulk = s.admit(3, lane="bulk")
            jobs = [await begun(s, gates[0], bulk)]
            jobs += [asyncio.create_task(s.run(gate, bulk)) for gate in gates[1:]]
            await until(lambda: s.queued == 2)
            await asyncio.sleep(0.02)
            assert (s.running, gates[1].begun.is_set()) == (1, False)
            assert await s.run(lambda: "at once", uploading) == "at once"
            await until(gates[1].begun.is_set)  # nobody is expected any more: the last worker too
            other = s.admit()
            gates[0].open.set()
            await jobs[0]
            await asyncio.sleep(0.02)
            assert not gates[2].begun.is_set()
            other.release()  # it never came
            await until(gates[2].begun.is_set)
            for gate in gates:
                gate.open.set()
            await asyncio.gather(*jobs)

    run(main())


def test_a_single_worker_does_bulk_work_too() -> None:
    async def main() -> None:
        with scheduler(workers=1, queue_max=7) as s, s.admit(), s.admit(lane="bulk") as bulk:
            assert await s.run(lambda: 3, bulk) == 3

    run(main())


def test_passes_of_a_request_wait_behind_every_film() -> None:
    async def main() -> None:
        with scheduler(workers=1, queue_max=7) as s:
            order: list[str] = []
            gate = Gate()
            first = await begun(s, gate, s.admit())
            slow, plain = s.admit(), s.admit()
            pass_ = asyncio.create_task(s.run(partial(order.append, "pass"), slow, lane="bulk"))
            await until(lambda: s.queued == 1)
            film = asyncio.create_task(s.run(partial(order.append, "film"), plain))
            await until(lambda: s.queued == 2)
            gate.open.set()
            await asyncio.gather(first, film, pass_)
            assert order == ["film", "pass"]

    run(main())


def test_the_passes_of_a_request_share_one_deadline() -> None:
    async def main() -> None:
        with scheduler(workers=1, queue_max=7, queue_timeout_s=0.2) as s, s.admit() as admission:
            await s.run(lambda: None, admission)
            await s.run(lambda: time.sleep(0.12), admission, lane="bulk")
            await s.run(lambda: time.sleep(0.12), admission, lane="bulk")
            with pytest.raises(UnavailableError):
                await s.run(lambda: None, admission, lane="bulk")
            assert counts(s, "bulk") == {"late": 1}
            assert await s.run(lambda: 1, admission) == 1  # no lane is named: the next film of a batch has its own time

    run(main())


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("passes", LANES)
def test_further_passes_have_no_time_of_their_own_in_any_lane(lane: Lane, passes: Lane) -> None:
    async def main() -> None:
        with scheduler(workers=1, queue_max=7) as s, s.admit(lane=lane) as admission:
            await s.run(lambda: None, admission)
            assert await s.run(lambda: 1, admission, lane=passes) == 1
            admission.passes_by = time.monotonic() - 1  # so long did the passes before it take
            with pytest.raises(UnavailableError):
                await s.run(lambda: None, admission, lane=passes)
            assert counts(s, passes) == {"late": 1}
            assert await s.run(lambda: 1, admission) == 1

    run(main())


def test_a_client_s_deadline_shortens_the_wait() -> None:
    async def main() -> None:
        with scheduler(workers=1) as s:
            gate, late = Gate(), Gate()
            with s.admit() as one, s.admit(begin_within_s=0.05) as two:
                first = await begun(s, gate, one)
                asked = time.monotonic()
                with pytest.raises(UnavailableError) as error:
                    await s.run(late, two)
                assert error.value.code == "overloaded"
                assert time.monotonic() - asked < 5
                with pytest.raises(UnavailableError):
                    await s.run(late, two)  # past it: at once
                gate.open.set()
                await first
            assert not late.begun.is_set()
            assert counts(s, "routine") == {"late": 2}

    run(main())


def test_a_client_s_deadline_cannot_lengthen_the_wait() -> None:
    async def main() -> None:
        with scheduler(workers=1, queue_timeout_s=0.5) as s:
            gate = Gate()
            with s.admit() as one, s.admit(begin_within_s=500) as two:
                first = await begun(s, gate, one)
                with pytest.raises(UnavailableError):
                    await s.run(lambda: None, two)
                gate.open.set()
                await first

    run(main())


def test_a_queue_that_is_too_slow_refuses_though_it_has_places() -> None:
    async def main() -> None:
        with scheduler(workers=2, queue_max=20, queue_timeout_s=10) as s:
            s._pace.took("routine", 4.0)
            gates = [Gate() for _ in range(2)]
            running = [await begun(s, gate, s.admit()) for gate in gates]
            assert refused(s, begin_within_s=3).retry_after_s == pytest.approx(4.0)  # 2 running films of 4 s, 2 workers
            waiting = []
            for i in range(4):
                waiting.append(asyncio.create_task(s.run(lambda: None, s.admit())))
                await until(lambda i=i: s.queued == i + 1)
            error = refused(s)  # 6 films ahead: 12 s
            assert error.retry_after_s == pytest.approx(12.0)
            assert counts(s, "routine") == {"wait": 2}
            s.admit(lane="stat").release()  # only what runs is ahead of it
            s.admit(owner="other").release()  # whose turn comes after one of them: 2 + 1 ahead
            for gate in gates:
                gate.open.set()
            await asyncio.gather(*running, *waiting)

    run(main())


def test_one_slow_film_does_not_close_the_door_for_ever() -> None:
    """A moving average that says more than the limit is right only while somebody is ahead."""

    async def main() -> None:
        with scheduler(workers=1, queue_max=5, queue_timeout_s=1) as s:
            s._pace.took("routine", 500.0)
            gate = Gate()
            with s.admit() as one:
                first = await begun(s, gate, one)
                refused(s)
                gate.open.set()
                await first
            with s.admit() as two:
                assert await s.run(lambda: 8, two) == 8
            assert s._pace.service_s("routine") < 500

    run(main())


def test_a_withdrawn_request_does_not_begin_and_frees_its_places_when_it_is_released() -> None:
    async def main() -> None:
        with scheduler(workers=1, queue_max=5) as s:
            gate, skipped = Gate("done"), Gate()
            with s.admit(3) as admission:
                first = await begun(s, gate, admission)
                queued = [asyncio.create_task(s.run(skipped, admission)) for _ in range(2)]
                await until(lambda: s.queued == 2)
                admission.withdraw()
                admission.withdraw()
                for task in queued:
                    with pytest.raises(WithdrawnError):
                        await task
                with pytest.raises(WithdrawnError):
                    await s.run(skipped, admission)  # nor what it would ask for later
                assert (s.queued, s.running, s.admitted) == (0, 1, 3)
                gate.open.set()
                assert await first == "done"  # what had begun is finished and recorded
            assert s.admitted == 0
            assert not skipped.begun.is_set()

    run(main())


def test_the_states_of_the_lanes() -> None:
    async def main() -> None:
        with scheduler(workers=1, queue_max=5) as s:
            gate = Gate()
            first = await begun(s, gate, s.admit(lane="stat"))
            second = asyncio.create_task(s.run(lambda: None, s.admit(owner="a")))
            await until(lambda: s.queued == 1)
            await asyncio.sleep(0.05)
            stat, routine, bulk = s.states()
            assert (stat.lane, stat.running, stat.queued, stat.begun, stat.oldest_s) == ("stat", 1, 0, 1, 0.0)
            assert (routine.running, routine.queued, routine.begun) == (0, 1, 0)
            assert 0.04 < routine.oldest_s < 10
            assert (bulk.running, bulk.queued, bulk.waited_s) == (0, 0, 0.0)
            gate.open.set()
            await asyncio.gather(first, second)
            assert s.states()[1].waited_s > 0.04

    run(main())


def test_a_request_that_only_looked_leaves_no_refusal_twice() -> None:
    s = Scheduler(workers=1, queue_max=0, queue_timeout_s=10)
    s.admit()
    refused(s)
    assert counts(s, "routine") == {"full": 1}
    s.close()


# threads of the stat lane


def aside(workers: int = 1) -> contextlib.closing[Scheduler]:
    return contextlib.closing(
        Scheduler(workers=workers, queue_max=8, queue_timeout_s=10, stat_places=4, stat_threads=1)
    )


def test_a_stat_film_begins_though_every_worker_is_busy() -> None:
    async def main() -> None:
        with aside() as s:
            assert (s.workers, s.threads, s.places) == (1, 2, 13)
            gate = Gate()
            first = await begun(s, gate, s.admit())
            waiting = asyncio.create_task(s.run(lambda: "routine", s.admit()))
            await until(lambda: s.queued == 1)
            name = await s.run(lambda: threading.current_thread().name, s.admit(lane="stat"))
            assert name == "cxr-stat-0"
            assert not waiting.done()
            gate.open.set()
            assert await waiting == "routine"
            await first

    run(main())


def test_the_stat_thread_takes_nothing_else_and_is_no_idle_worker() -> None:
    async def main() -> None:
        with aside() as s:
            worker, stat = Gate(), Gate()
            tasks = [await begun(s, worker, s.admit()), await begun(s, stat, s.admit(lane="stat"))]
            names: list[str] = []
            tasks += [
                asyncio.create_task(s.run(lambda: names.append(threading.current_thread().name), s.admit(lane=lane)))
                for lane in ("bulk", "routine")
            ]
            stat.open.set()
            await tasks[1]
            await asyncio.sleep(0.05)
            assert (names, s.queued) == ([], 2)
            worker.open.set()
            await asyncio.gather(*tasks)
            assert names == ["cxr-worker-0"] * 2

    run(main())


def test_what_waits_for_a_worker_is_told_so_though_the_stat_thread_is_idle() -> None:
    async def main() -> None:
        with aside() as s:
            await s.run(partial(time.sleep, 0.05), s.admit())  # what a job takes
            gate = Gate()
            task = await begun(s, gate, s.admit())
            refused(s, begin_within_s=0.001)
            s.admit(lane="stat", begin_within_s=0.001).release()
            stat = Gate()
            other = await begun(s, stat, s.admit(lane="stat"))
            refused(s, lane="stat", begin_within_s=0.001)
            gate.open.set()
            await task
            s.admit(begin_within_s=0.001).release()  # the worker is idle again, whatever runs aside
            stat.open.set()
            await other

    run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="the nice value is per thread on Linux alone")
def test_workers_yield_to_the_stat_thread() -> None:
    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async def main() -> None:
        with aside() as s:
            gate = Gate()
            worker = await s.run(nice, s.admit())
            task = await begun(s, gate, s.admit())
            assert await s.run(nice, s.admit(lane="stat")) == nice()
            assert worker == min(nice() + 10, 19)
            gate.open.set()
            await task
        with scheduler() as plain:
            assert await plain.run(nice, plain.admit()) == nice()

    run(main())
