"""A job, and the admission under which it runs. Both are parts of their scheduler: its lock guards them."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from app.domain import Lane

if TYPE_CHECKING:
    from app.inference.scheduler import Scheduler

T = TypeVar("T")


class WithdrawnError(Exception):
    """The admission was withdrawn before the job began: nobody waits for its answer. Never reaches a client."""


class State(Enum):
    QUEUED = 1
    RUNNING = 2
    OVER = 3


class Admission:
    """n places, from `Scheduler.admit`. A context manager; leaving it releases them, once, whatever happened inside.

    lane, owner: of the request; begin_by: when its jobs must have begun, s on the monotonic clock; None where nobody said so.
    """

    def __init__(self, scheduler: Scheduler, n: int, lane: Lane, owner: str, begin_by: float | None) -> None:
        self._scheduler = scheduler
        self.n = n
        self.lane: Lane = lane
        self.owner = owner
        self.begin_by = begin_by
        # all guarded by the scheduler's lock
        self.released = self.withdrawn = False
        self.expected = True  # its first job is still to come
        self.passes_by: float | None = (
            None  # when its further passes must have begun, whatever their lane; set with the first job of all
        )
        self.queued: set[Job[Any]] = set()
        self.jobs = 0  # queued or running

    def release(self) -> None:
        """Give the places back; those of jobs that still run follow when these end. More than once does no harm."""
        self._scheduler._release(self)  # noqa: SLF001 (an admission is a part of its scheduler)

    def withdraw(self) -> None:
        """Nobody waits for the answer any more: what has not begun never will, and its waiters get WithdrawnError."""
        self._scheduler._withdraw_all(self)  # noqa: SLF001

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class Job(Generic[T]):
    """A call, who waits for it, and where it stands. Made on the event loop of its waiter.

    deadline: when it must have begun, s on the monotonic clock.
    """

    def __init__(self, call: Callable[[], T], admission: Admission, lane: Lane) -> None:
        self.call = call
        self.admission = admission
        self.lane: Lane = lane
        self.owner = admission.owner
        self.queued_at = self.deadline = time.monotonic()
        self.state = State.QUEUED
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


def _carrying(error: BaseException) -> RuntimeError:
    wrapped = RuntimeError(f"a job ended with {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped
