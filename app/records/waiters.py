"""Those who wait for the writer: coroutines on an event loop, and threads. The writer's thread settles both."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from app.records.events import EventId

Outcome = EventId | Exception


@dataclass(frozen=True)
class AsyncWaiter:
    """A coroutine that awaits `future` on `loop`; it may have gone away by the time it is settled."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[EventId]

    @classmethod
    def here(cls) -> AsyncWaiter:
        """For the running loop."""
        loop = asyncio.get_running_loop()
        return cls(loop, loop.create_future())


@dataclass(frozen=True)
class ThreadWaiter:
    """A thread that blocks in `future.result`."""

    future: concurrent.futures.Future[EventId] = field(default_factory=concurrent.futures.Future)


Waiter = AsyncWaiter | ThreadWaiter


def deliver(outcomes: Iterable[tuple[Waiter | None, Outcome]]) -> None:
    """Settle waiters from the writer's thread; each event loop is woken once, whatever the number of its waiters."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[EventId], Outcome]]] = {}
    for waiter, outcome in outcomes:
        if isinstance(waiter, AsyncWaiter):
            by_loop.setdefault(waiter.loop, []).append((waiter.future, outcome))
        elif waiter is not None:
            _settle(waiter.future, outcome)
    for loop, settled in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed, so nobody waits any more
            loop.call_soon_threadsafe(_settle_all, settled)


def _settle_all(settled: list[tuple[asyncio.Future[EventId], Outcome]]) -> None:
    for future, outcome in settled:
        _settle(future, outcome)


def _settle(future: asyncio.Future[EventId] | concurrent.futures.Future[EventId], outcome: Outcome) -> None:
    if future.done():  # cancelled: the caller gave up or went away
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
