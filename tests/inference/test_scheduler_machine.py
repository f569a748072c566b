"""The whole scheduler, threads and loop included, against a plain model, step by step.

Jobs are gates that the machine opens, so that every step settles before the next one; then what runs, what waits, who holds which place
and who was told what must be exactly what the model says. The model is written in other words than the code: turns by the time of the
last one, places counted anew from the admissions at every look.

`test_planted_faults_are_found` breaks the scheduler in the ways that this must see.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.domain import LANES, Lane
from app.errors import UnavailableError
from app.inference.jobs import Admission, Job, State, WithdrawnError
from app.inference.lanes import SHARE, FairQueue, Places
from app.inference.scheduler import Scheduler


@dataclass(eq=False)
class Work:
    """One job of the machine. end: how it ended, as its waiter saw it."""

    token: int
    lane: Lane
    ticket: Ticket
    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    task: asyncio.Task[int] | None = None
    where: str = "queued"  # queued, running, over

    def __call__(self) -> int:
        self.begun.set()
        assert self.gate.wait(20)
        return self.token


@dataclass(eq=False)
class Ticket:
    """An admission, as the model sees it."""

    admission: Admission
    n: int
    lane: Lane
    owner: str
    works: list[Work] = field(default_factory=list)
    released: bool = False
    withdrawn: bool = False
    had_job: bool = False

    @property
    def alive(self) -> int:
        return sum(w.where != "over" for w in self.works)

    @property
    def held(self) -> int:
        return self.alive if self.released else self.n


class Machine(RuleBasedStateMachine):
    """Rules are what clients, workers and clocks do."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.tickets: list[Ticket] = []
        self.last_turn: dict[tuple[Lane, str], int] = {}
        self.tokens = self.turns = 0

    @initialize(workers=st.integers(1, 4), queue_max=st.integers(0, 16), stat=st.integers(0, 3), bulk=st.integers(1, 4))
    def start(self, workers: int, queue_max: int, stat: int, bulk: int) -> None:
        self.workers, self.shared, self.stat = workers, workers + queue_max, stat
        self.bulk = min(bulk, self.shared)
        self.scheduler = Scheduler(
            workers=workers, queue_max=queue_max, queue_timeout_s=1_000, stat_places=stat, bulk_places=bulk
        )

    def teardown(self) -> None:
        """Everything ends, and every place can be had again."""
        if not hasattr(self, "scheduler"):
            self.loop.close()
            return
        try:
            for work in self.works():
                work.gate.set()
            self.settle(lambda: all(w.task is None or w.task.done() for t in self.tickets for w in t.works))
            for ticket in self.tickets:
                ticket.admission.release()
            self.settle(lambda: self.scheduler.admitted == 0)
            self.scheduler.admit(self.scheduler.places, lane="stat").release()
        finally:
            for work in [w for t in self.tickets for w in t.works]:
                work.gate.set()
                if work.task is not None:
                    work.task.cancel()
            self.scheduler.close()
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()

    # what the model knows

    def works(self, where: str | None = None, lane: Lane | None = None) -> list[Work]:
        found = (w for t in self.tickets for w in t.works if w.where != "over")
        return [w for w in found if where in {None, w.where} and lane in {None, w.lane}]

    def held(self, lane: Lane) -> int:
        return sum(t.held for t in self.tickets if t.lane == lane)

    def refusal(self, n: int, lane: Lane, owner: str) -> str | None:
        held = {each: self.held(each) for each in LANES}
        free = self.shared + self.stat - sum(held.values())
        if lane != "stat":
            free = min(free, self.shared - held["routine"] - held["bulk"])
        if lane == "bulk":
            free = min(free, self.bulk - held["bulk"])
        mine = sum(t.held for t in self.tickets if (t.lane, t.owner) == (lane, owner))
        if n > free:
            return "full"
        return "share" if owner and mine and mine + n > SHARE * (free - n + 1) else None

    def next_for_a_worker(self) -> Work | None:
        for lane in LANES:
            waiting = self.works("queued", lane)
            expected = any(not (t.had_job or t.released) and t.lane != "bulk" for t in self.tickets)
            if lane == "bulk" and expected and len(self.works("running", "bulk")) >= max(1, self.workers - 1):
                continue
            if waiting:
                owners = {w.ticket.owner for w in waiting}
                owner = min(owners, key=lambda o: self.last_turn[lane, o])
                return min((w for w in waiting if w.ticket.owner == owner), key=lambda w: w.token)
        return None

    def workers_take(self) -> None:
        """The model's idle workers begin what they may; then the scheduler's must have begun just that."""
        while len(self.works("running")) < self.workers and (work := self.next_for_a_worker()) is not None:
            work.where = "running"
            self.turn_ends(work.lane, work.ticket.owner)
        running = {lane: len(self.works("running", lane)) for lane in LANES}
        self.settle(
            lambda: (
                all(w.begun.is_set() for w in self.works("running"))
                and {s.lane: s.running for s in self.scheduler.states()} == running
            )
        )

    def turn_ends(self, lane: Lane, owner: str) -> None:
        self.turns += 1
        self.last_turn[lane, owner] = self.turns

    def settle(self, done: Callable[[], bool]) -> None:
        async def wait() -> None:
            deadline = time.monotonic() + 5
            while not done():
                assert time.monotonic() < deadline, "what the model expects does not happen"
                await asyncio.sleep(0.0002)
            await asyncio.sleep(0)

        self.loop.run_until_complete(wait())

    def ends(self, work: Work, outcome: type[BaseException] | None) -> None:
        """A waiter must now have been told this, and nothing else."""
        work.where = "over"
        task = work.task
        assert task is not None
        self.settle(task.done)
        if outcome is None:
            assert task.result() == work.token, "another request's answer"
        elif outcome is asyncio.CancelledError:
            assert task.cancelled()
        else:
            assert isinstance(task.exception(), outcome)

    # what clients do

    @rule(
        n=st.sampled_from([1, 1, 1, 2, 3]),
        lane=st.sampled_from(LANES),
        owner=st.sampled_from(["", "a", "b", "c"]),
        submits=st.booleans(),
    )
    def admit(self, n: int, lane: Lane, owner: str, submits: bool) -> None:
        refusal = self.refusal(n, lane, owner)
        try:
            admission = self.scheduler.admit(n, lane=lane, owner=owner)
        except UnavailableError:
            assert refusal is not None, "refused without a reason"
            return
        assert refusal is None, f"admitted, though {refusal}"
        self.tickets.append(Ticket(admission, n, lane, owner))
        if submits:
            self.send(self.tickets[-1], lane)

    @rule(lane=st.sampled_from(LANES), owners=st.lists(st.sampled_from(["a", "b", "c"]), min_size=3, max_size=6))
    def crowd(self, lane: Lane, owners: list[str]) -> None:
        """Several single films at once, so that turns matter."""
        for owner in owners:
            self.admit(1, lane, owner, submits=True)

    @precondition(lambda self: self.open_tickets())
    @rule(data=st.data(), passes=st.sampled_from([None, None, "bulk"]))
    def submit(self, data: st.DataObject, passes: Lane | None) -> None:
        ticket = data.draw(st.sampled_from(self.open_tickets()))
        self.send(ticket, passes or ticket.lane)

    def open_tickets(self) -> list[Ticket]:
        return [t for t in self.tickets if not t.released and not t.withdrawn and t.alive < t.n]

    def send(self, ticket: Ticket, lane: Lane) -> None:
        self.tokens += 1
        work = Work(self.tokens, lane, ticket)
        if not any(w.ticket.owner == ticket.owner for w in self.works("queued", lane)):
            self.turn_ends(lane, ticket.owner)
        before = self.scheduler.states()
        work.task = self.loop.create_task(self.scheduler.run(work, ticket.admission, lane=lane))
        ticket.works.append(work)
        ticket.had_job = True
        jobs = sum(state.queued + state.begun for state in before)
        self.settle(lambda: sum(state.queued + state.begun for state in self.scheduler.states()) > jobs)
        self.workers_take()

    @precondition(lambda self: self.works("running"))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(self.works("running")))
        work.gate.set()
        self.ends(work, asyncio.CancelledError if work.task and work.task.cancelled() else None)
        self.workers_take()

    @precondition(lambda self: self.works())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """A waiter goes: what has not begun never will, what has begun keeps its place."""
        work = data.draw(st.sampled_from(self.works()))
        assert work.task is not None
        work.task.cancel()
        self.settle(work.task.done)
        if work.where == "queued":
            self.ends(work, asyncio.CancelledError)

    @precondition(lambda self: any(not t.released for t in self.tickets))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """A client goes: all of its request that has not begun."""
        ticket = data.draw(st.sampled_from([t for t in self.tickets if not t.released]))
        ticket.admission.withdraw()
        ticket.withdrawn = True
        for work in [w for w in ticket.works if w.where == "queued"]:
            self.ends(work, WithdrawnError)

    @precondition(lambda self: self.works("queued"))
    @rule(data=st.data())
    def too_late(self, data: st.DataObject) -> None:
        """The clock of a job that waits strikes."""
        work = data.draw(st.sampled_from(self.works("queued")))
        (job,) = [j for j in self.scheduler._lanes if j.call is work]
        self.scheduler._expire(job)
        self.ends(work, UnavailableError)

    @precondition(lambda self: any(not t.released for t in self.tickets))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """The answer was sent, or the request failed; its jobs may still run."""
        ticket = data.draw(st.sampled_from([t for t in self.tickets if not t.released]))
        ticket.admission.release()
        ticket.admission.release()
        ticket.released = True
        self.workers_take()

    # what must hold after every step

    @invariant()
    def is_as_the_model_says(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for state in self.scheduler.states():
            assert state.queued == len(self.works("queued", state.lane))
            assert state.running == len(self.works("running", state.lane))
            assert self.scheduler._places.held[state.lane] == self.held(state.lane)
        assert not any(w.begun.is_set() for w in self.works("queued")), "began, though it was not its turn"
        assert self.scheduler.admitted <= self.scheduler.places
        assert self.held("routine") + self.held("bulk") <= self.shared


STEPS = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_the_scheduler_is_what_the_model_says() -> None:
    run_state_machine_as_test(Machine, settings=STEPS)


def _no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """First come, first served, whoever it is."""

    def pop(self: FairQueue[Job[Any]]) -> Job[Any]:
        job = min(self, key=lambda j: j.queued_at)
        self.remove(job)
        return job

    monkeypatch.setattr(FairQueue, "pop", pop)


def _bulk_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.inference.scheduler.LANES", ("bulk", "routine", "stat"))


def _routine_takes_stat_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Places, "free", lambda self, _: self._partition.all - self.taken)


def _expired_jobs_keep_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def over(_: Scheduler, job: Job[Any]) -> None:
        job.state = State.OVER
        job.admission.jobs -= 1

    monkeypatch.setattr(Scheduler, "_over", over)


def _withdrawn_jobs_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "_withdraw_all", lambda _, admission: setattr(admission, "withdrawn", True))


FAULTS = [
    _no_turns,
    _bulk_first,
    _routine_takes_stat_places,
    _expired_jobs_keep_their_place,
    _withdrawn_jobs_begin,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    found = settings(STEPS, phases=[Phase.generate], derandomize=True, report_multiple_bugs=False, database=None)
    with pytest.raises((AssertionError, UnavailableError, Flaky)):  # a fault of timing need not show at the second look
        run_state_machine_as_test(Machine, settings=found)
