"""A run on this machine: threads that fetch and judge, rows in the plan's order, only so many films on the way."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from app.bulk.films import Film
from app.bulk.rows import Row

AHEAD = 8  # films a thread may be ahead of the oldest that is not finished; of those only the rows are kept


class Pace:
    """At most so many films a second, evenly spread; time that was lost is not made up for.

    Args:
        rate: films per second; None is no limit.
    """

    def __init__(self, rate: float | None, stop: threading.Event) -> None:
        self._every_s = 0.0 if rate is None else 1.0 / rate
        self._stop = stop
        self._next = 0.0

    def wait(self) -> None:
        """Until the next film may begin, or a stop."""
        if not self._every_s:
            return
        now = time.monotonic()
        begin = max(now, self._next)
        self._next = begin + self._every_s
        if begin > now:
            self._stop.wait(begin - now)


def judge_here(
    films: Iterable[Film], judge: Callable[[Film], Row], *, threads: int, pace: Pace, stop: threading.Event
) -> Iterator[Row]:
    """Rows in the order of the films, as soon as all before them are there.

    In memory are `threads` films and `AHEAD * threads` rows. After a stop the films that have begun are still finished. Where `judge`
    raises, so does this.
    """
    waiting: deque[Future[Row]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="bulk") as pool:
        try:
            for film in films:
                pace.wait()
                if stop.is_set():
                    break
                waiting.append(pool.submit(judge, film))
                while waiting and (len(waiting) >= AHEAD * threads or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting and not (stop.is_set() and waiting[0].cancel()):
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
