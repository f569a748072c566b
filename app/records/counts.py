"""Requests that were turned away before they could be audited one by one: one event per kind, code, key prefix and minute."""

from __future__ import annotations

import re
import threading
from collections import Counter
from datetime import datetime
from typing import Final

from app.records.events import AuditEvent

CELLS_MAX: Final = 1_000
OTHER: Final = "(other)"  # cells beyond the bound, and prefixes that no key can have
_PREFIX: Final = re.compile(r"[a-z2-7]{8}")
_WORD: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Counts:
    """Bounded and thread-safe; adding costs a lock and a dictionary look-up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cells: Counter[tuple[str, str, str, str | None]] = Counter()

    def add(self, now: datetime, kind: str, code: str, key_prefix: str | None) -> None:
        """Count one. kind and code are words of the service; a key prefix comes from a client and is kept only if it could be one."""
        if not (_WORD.fullmatch(kind) and _WORD.fullmatch(code)):
            raise ValueError("kind and code are lower-case words")
        if key_prefix is not None and not _PREFIX.fullmatch(key_prefix):
            key_prefix = OTHER
        minute = now.strftime("%Y-%m-%dT%H:%MZ")
        cell = (minute, kind, code, key_prefix)
        with self._lock:
            if cell not in self._cells and len(self._cells) >= CELLS_MAX:
                cell = (minute, kind, code, OTHER)
            self._cells[cell] += 1

    def take(self, before: datetime | None) -> list[AuditEvent]:
        """Remove the cells of the minutes that are over at `before` (None: all) and return one event for each."""
        limit = before.strftime("%Y-%m-%dT%H:%MZ") if before else None
        with self._lock:
            taken = {cell: n for cell, n in self._cells.items() if limit is None or cell[0] < limit}
            for cell in taken:
                del self._cells[cell]
        return [
            AuditEvent(
                "counted",
                None,
                {"minute": minute, "kind": kind, "code": code, "key_prefix": prefix, "count": n},
            )
            for (minute, kind, code, prefix), n in sorted(
                taken.items(), key=lambda item: (item[0][:3], item[0][3] or "")
            )
        ]
