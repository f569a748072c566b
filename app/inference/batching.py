"""Films of several callers in one call of the engine, without a timer: whatever came while the last batch ran goes next.

The first caller that finds nobody at it leads: it takes what waits, its own film first of all that came later, runs it, and hands out
the answers. A lone film never waits for company. Used only where the measurement says that it pays (`app.engines`): on a CPU the
arithmetic of a batch is often no cheaper than that of its films one by one.
"""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from numpy.typing import NDArray

from app.domain import EngineInfo, NetworkOutput
from app.errors import InternalError
from app.inference.engine import Engine


class _Film:
    """A film that waits, then its output or the error that it alone had. Guarded by the engine's lock, but for its leader."""

    def __init__(self, tensor: NDArray[np.float32]) -> None:
        self.tensor = tensor
        self.output: NetworkOutput | None = None
        self.error: BaseException | None = None

    @property
    def over(self) -> bool:
        return self.output is not None or self.error is not None

    def answer(self) -> NetworkOutput:
        if self.output is None:
            raise self.error or InternalError()
        return self.output


class BatchingEngine:
    """An engine that runs films which wait at the same time together. Safe for any number of threads.

    Args:
        engine: does the arithmetic; one call at a time.
        most: films in one call, at least 2.
    """

    def __init__(self, engine: Engine, most: int) -> None:
        if most < 2:
            raise ValueError(f"batches of {most}")
        self._engine = engine
        self._most = most
        self._changed = threading.Condition()
        # guarded by the condition
        self._waiting: deque[_Film] = deque()
        self._led = False

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def run(self, tensor: NDArray[np.float32]) -> NetworkOutput:
        """As the engine's own `run`; a film that fails fails alone."""
        film = _Film(tensor)
        with self._changed:
            self._waiting.append(film)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: film.over or not self._led)
                if film.over:
                    return film.answer()
                self._led = True
                batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            try:
                self._serve(batch)
            finally:
                with self._changed:
                    self._led = False
                    self._changed.notify_all()

    def run_many(self, tensors: NDArray[np.float32]) -> list[NetworkOutput]:
        """The engine's own: these films are together already."""
        return self._engine.run_many(tensors)

    def _serve(self, batch: list[_Film]) -> None:
        """Every film of the batch gets its output or its error, whatever happens."""
        try:
            if len(batch) > 1:
                self._together(batch)
            for film in batch:
                if not film.over:
                    self._alone(film)
        finally:
            for film in batch:
                if not film.over:
                    film.error = InternalError()

    def _together(self, batch: list[_Film]) -> None:
        try:
            outputs = self._engine.run_many(np.stack([film.tensor for film in batch]))
        except (InternalError, ValueError):  # one of them is at fault, or of another shape: which one shows alone
            return
        for film, output in zip(batch, outputs, strict=True):
            film.output = output

    def _alone(self, film: _Film) -> None:
        try:
            film.output = self._engine.run(film.tensor)
        except Exception as error:  # its caller's to handle
            film.error = error
