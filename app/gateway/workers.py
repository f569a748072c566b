"""Threads that take one step after the other, for ever, whatever a step raises."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog

from app.errors import UnavailableError

log = structlog.get_logger("cxr.gateway.workers")

POLL_S: Final = 0.5  # what another process has put into the database is noticed after this time
_STORE_AWAY_S: Final = 1.0
_FAULT_S: Final = 5.0

Step = Callable[[], float]
"""Does what is due and returns the seconds until it wants to be called again (0: at once)."""


class Worker(threading.Thread):
    """One such thread. `wake` ends its rest; `stop` ends it after the step it is at."""

    def __init__(self, name: str, step: Step) -> None:
        super().__init__(name=f"gateway-{name}", daemon=True)
        self._step = step
        self._woken = threading.Event()
        self._stopped = False

    def wake(self) -> None:
        self._woken.set()

    def stop(self) -> None:
        self._stopped = True
        self._woken.set()

    def run(self) -> None:
        while not self._stopped:
            self._woken.clear()
            rest_s = self._guarded()
            if rest_s > 0 and not self._stopped:
                self._woken.wait(min(rest_s, POLL_S) if rest_s != _FAULT_S else _FAULT_S)

    def _guarded(self) -> float:
        try:
            return self._step()
        except UnavailableError:
            return _STORE_AWAY_S
        except Exception as error:  # a worker that ends would hold everything behind it; the text may hold a header's
            log.error("gateway_worker_fault", worker=self.name, fault=type(error).__name__)  # noqa: TRY400 - no traceback
            return _FAULT_S


def persist(write: Callable[[], None], stopping: threading.Event) -> bool:
    """Write what has happened outside until the store takes it, so that it is not done a second time. False: told to stop before."""
    while True:
        try:
            write()
        except UnavailableError:
            if stopping.wait(_STORE_AWAY_S):
                return False
        else:
            return True
