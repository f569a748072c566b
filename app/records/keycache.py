"""Authentication without SQL on the event loop: the valid keys in memory, refreshed by a thread of its own.

A key made or revoked by another process is noticed within `REFRESH_S`. A well-formed key that is not known asks for an early refresh,
at most every `EARLY_S` for all of them together, so that a new key works at once and a flood of bad ones costs nothing.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import Final

import structlog
from sqlalchemy import Engine

from app.domain import Principal
from app.records.keys import ApiKeys, StoredKey
from app.records.keytext import parse_key_text

log = structlog.get_logger("cxr.records")

REFRESH_S: Final = 1.0
EARLY_S: Final = 0.2
EARLY_WAITERS_MAX: Final = 64
EARLY_WAIT_S: Final = 2.0


class KeyCache:
    """Who is behind a key text. Thread-safe; the map of keys is replaced whole, never changed."""

    def __init__(self, keys: ApiKeys, reader: Engine) -> None:
        self._keys, self._reader = keys, reader
        self._valid: dict[str, StoredKey] = {}
        self._marker: tuple[int, int] | None = None
        self._refreshing = threading.Lock()
        self._wake = threading.Condition()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="key-refresh", daemon=True)

    def start(self) -> None:
        """Read the keys and keep them fresh from now on."""
        self.refresh()
        self._thread.start()

    def authenticate(self, text: str) -> Principal | None:
        """Who presents this key text; None for anything but a valid key. Never waits; a new key may take `REFRESH_S`."""
        key = parse_key_text(text)
        if key is None:
            return None
        stored = self._valid.get(key.id)
        if stored is None:
            self._keys.waste(key)
            return None
        return stored.principal if self._keys.fits(stored, key) else None

    async def authenticate_async(self, text: str) -> Principal | None:
        """As `authenticate`, but a well-formed key with an unknown id waits for the next refresh (bounded in time and number)."""
        principal = self.authenticate(text)
        key = parse_key_text(text)
        if principal is not None or key is None or key.id in self._valid:
            return principal
        if not await self._next_refresh():
            return None
        return self.authenticate(text)

    def refresh(self) -> None:
        """Read the keys if any was made or revoked since the last time."""
        with self._refreshing, self._reader.connect() as connection:
            marker = self._keys.marker(connection)
            if marker != self._marker:
                self._valid = self._keys.valid(connection)
                self._marker = marker

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    async def _next_refresh(self) -> bool:
        loop = asyncio.get_running_loop()
        with self._wake:
            if self._closing or len(self._waiting) >= EARLY_WAITERS_MAX:
                return False
            done: asyncio.Future[None] = loop.create_future()
            self._waiting.append((loop, done))
            self._wake.notify()
        try:
            async with asyncio.timeout(EARLY_WAIT_S):
                await done
        except TimeoutError:
            return False
        return True

    def _run(self) -> None:
        last = time.monotonic()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._waiting, REFRESH_S)
                self._wake.wait_for(lambda: self._closing, max(0.0, last + EARLY_S - time.monotonic()))
                waiting, self._waiting = self._waiting, []
                if self._closing:
                    break
            last = time.monotonic()
            try:
                self.refresh()
            except Exception as error:  # the keys of the last refresh stay; answers need the database anyway
                log.warning("key_refresh_failed", error=str(error))
            _release(waiting)
        _release(waiting)


def _release(waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]) -> None:
    for loop, done in waiting:
        with suppress(RuntimeError):  # the loop is closed, so nobody waits any more
            loop.call_soon_threadsafe(_finish, done)


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
