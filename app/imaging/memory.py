"""Decodes that need much working memory pass one at a time, whatever the number of workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

LARGE_DECODE_BYTES = 64_000_000
"""Working memory above which a decode waits for its turn."""

_one_large = threading.BoundedSemaphore(1)


@contextmanager
def working_memory(needed_bytes: int) -> Iterator[None]:
    """Run the body at once, or, where it needs more than `LARGE_DECODE_BYTES`, when no other such body runs. Never nested."""
    if needed_bytes <= LARGE_DECODE_BYTES:
        yield
    else:
        with _one_large:
            yield
