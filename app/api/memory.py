"""The memory that request bodies are held in: charged before it is allocated, shared by all requests, given back with the request."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import numpy as np

from app.errors import UnavailableError

GROWTH_BYTES: Final = 262_144  # first step of a body of unknown length
_KEPT_PART: Final = 8  # an eighth is there for urgent requests alone


class InFlight:
    """Body bytes held by all requests together. Used on the event loop only.

    Args:
        limit: most bytes at one time.
        observe: told of every change; for the gauge.
    """

    def __init__(self, limit: int, observe: Callable[[int], None] = lambda _: None) -> None:
        self._limit = limit
        self._kept = limit // _KEPT_PART
        self._observe = observe
        self.held = 0

    def hold(self, *, urgent: bool = True) -> Hold:
        """A request's share, empty at first; a context manager that gives it back. urgent: may take what is kept for such."""
        return Hold(self, urgent)

    def change(self, count: int, *, urgent: bool = True) -> None:
        """Take (or, negative, give back) bytes.

        Raises:
            UnavailableError: `overloaded`; nothing was taken.
        """
        if count > 0 and self.held + count > self._limit - (0 if urgent else self._kept):
            raise UnavailableError("overloaded", retry_after_s=1.0)
        self.held += count
        self._observe(self.held)


class Hold:
    """One request's share of `InFlight`."""

    def __init__(self, shared: InFlight, urgent: bool) -> None:
        self._shared = shared
        self._urgent = urgent
        self._held = 0

    def take(self, count: int) -> None:
        self._shared.change(count, urgent=self._urgent)
        self._held += count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shared.change(-self._held)
        self._held = 0


class Buffer:
    """One block of memory, charged before it is allocated: of the declared length, or growing by doubling. It is not cleared, which
    would hold up the event loop for milliseconds where a large film is declared; only what was written is ever shown.

    Args:
        length: as declared, None if it was not.
        believed: so much of a declared length is allocated at once; the rest when that is full.
        limit: where doubling ends.
    """

    def __init__(self, length: int | None, believed: int, limit: int, hold: Hold) -> None:
        size = min(GROWTH_BYTES if length is None else length, believed)
        hold.take(size)
        self._hold = hold
        self._limit = limit if length is None else length
        self._known = length is not None
        self._view = _block(size)
        self.used = 0

    def append(self, data: bytes, start: int, end: int) -> None:
        needed = self.used + end - start
        if needed > len(self._view):
            self._grow(needed)
        self._view[self.used : needed] = memoryview(data)[start:end]
        self.used = needed

    def _grow(self, needed: int) -> None:
        size = max(needed, self._limit if self._known else min(2 * len(self._view), self._limit))
        self._hold.take(size - len(self._view))
        larger = _block(size)
        larger[: self.used] = self._view[: self.used]
        self._view = larger

    def view(self, start: int, end: int) -> memoryview:
        """The bytes [start, end) of those that were written, read-only, without a copy."""
        return self._view[start : min(end, self.used)].toreadonly()


def _block(size: int) -> memoryview:
    return np.empty(size, np.uint8).data
