"""The gateway's database: an SQLite file of its own, durable at every commit, in which whatever is personal is sealed.

One connection writes, for one thread at a time; after any failure it is thrown away and the next write opens a new one (a handle
whose commit failed is never trusted again). Readers have connections of their own and never wait for the writer (WAL).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import structlog
from sqlalchemy import Connection, delete, exists, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from app.errors import ConfigurationError, RecordsError, UnavailableError
from app.gateway.tables import SCHEMA_VERSION, contents, deliveries, films, metadata
from app.records.database import Database, failure_reason
from app.records.keyring import KeyRing
from app.settings import Settings

log = structlog.get_logger("cxr.gateway.store")

FILE_NAME: Final = "gateway.sqlite3"
RETRY_AFTER_S: Final = 5.0
# old version -> what brings it to the next; version 0 is an empty file
_STEPS: Final[dict[int, Callable[[Connection], None]]] = {0: metadata.create_all}


class Store:
    """Opens (and makes or upgrades) the database.

    Args:
        settings: `state_dir`, `secrets_path`, `audit_wait_s` (half of it is the longest wait for another process' lock).

    Raises:
        ConfigurationError: the state folder is not on a local disk.
        RecordsError: the key ring does not open, or the database is newer than this code.
        UnavailableError: the database is away.
    """

    def __init__(self, settings: Settings) -> None:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = settings.state_dir / FILE_NAME
        url = f"sqlite:///{path}"
        self._database = Database(settings.model_copy(update={"database_url": url, "database_password_file": None}))
        self._wait_s = settings.audit_wait_s
        self._guard = threading.Lock()
        self._writer: Connection | None = None
        self._running: int | None = None
        self._path = path
        self.ring = _open_ring(settings, create=not path.exists())
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._migrate()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction; committed, durably, when the block ends well.

        Raises:
            UnavailableError: nothing was written; the disk is full, the database is locked, damaged or away.
        """
        if not self._guard.acquire(timeout=self._wait_s):
            raise _unavailable("audit_store_locked")
        try:
            if self._writer is None:
                self._writer = self._database.writer.connect()
            with self._writer.begin():
                yield self._writer
        except (SQLAlchemyError, sqlite3.Error, RecordsError) as error:
            self._drop_writer()
            raise _unavailable(failure_reason(error)) from None
        except BaseException:
            self._drop_writer()
            raise
        finally:
            self._guard.release()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view.

        Raises:
            UnavailableError: the database is away.
        """
        try:
            with self._database.reader.connect() as connection, connection.begin():
                yield connection
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise _unavailable(failure_reason(error)) from None

    def put(self, connection: Connection, label: str, data: bytes) -> int:
        """Seal and keep; the row's id."""
        row = {"label": label, "size": len(data), "sealed": self.ring.seal(data, label.encode())}
        key = connection.execute(insert(contents).values(row)).inserted_primary_key
        assert key is not None  # noqa: S101 - for the type checker; an insert of one row has one
        return int(key[0])

    def get(self, content: int) -> bytes:
        """What was sealed.

        Raises:
            RecordsError: sealed_blob_damaged; it is gone, was changed, or its key is not in the ring.
        """
        with self.read() as connection:
            row = connection.execute(
                select(contents.c.label, contents.c.sealed).where(contents.c.id == content)
            ).one_or_none()
        if row is None:
            raise RecordsError("sealed_blob_damaged", "the sealed content is gone")
        return self.ring.unseal(row.sealed, row.label.encode())

    def used_bytes(self) -> int:
        """Pages of the database that hold something."""
        with self.read() as connection:
            pages, free, size = (
                connection.execute(text(f"PRAGMA {name}")).scalar_one()
                for name in ("page_count", "freelist_count", "page_size")
            )
        return int((pages - free) * size)

    def run_alone(self) -> None:
        """Make this the only process that moves films on, until it ends or closes the store.

        Raises:
            ConfigurationError: gateway_running.
        """
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise ConfigurationError("gateway_running", "another gateway works on this state folder") from None
        self._running = descriptor

    def close(self) -> None:
        with self._guard:
            self._drop_writer()
        self._database.dispose()
        if self._running is not None:
            os.close(self._running)
            self._running = None

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(SQLAlchemyError, sqlite3.Error):
                writer.close()

    def _migrate(self) -> None:
        with self.write() as connection:
            version = int(connection.execute(text("PRAGMA user_version")).scalar_one())
            if version > SCHEMA_VERSION:
                raise ConfigurationError(
                    "gateway_schema", f"{FILE_NAME} is of version {version}, this software reads {SCHEMA_VERSION}"
                )
            if version == SCHEMA_VERSION:
                return
            for step in range(version, SCHEMA_VERSION):
                _STEPS[step](connection)
            connection.execute(text(f"PRAGMA user_version={SCHEMA_VERSION}"))


def drop_unused(connection: Connection, *candidates: int | None) -> None:
    """Delete those contents that no film and no delivery refers to any more."""
    for content in candidates:
        if content is not None:
            connection.execute(
                delete(contents).where(
                    contents.c.id == content,
                    ~exists().where(films.c.content == content),
                    ~exists().where(deliveries.c.content == content),
                )
            )


def _open_ring(settings: Settings, *, create: bool) -> KeyRing:
    """The ring, shared with the service. One that is missing where films lie sealed or events were signed is to be restored; only
    before anything was, a new one is made."""
    path = settings.secrets_path / "keyring.json"
    try:
        create = create and not path.exists() and not Database(settings).has_events()
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise _unavailable(failure_reason(error)) from None
    return KeyRing.open(path, create=create)


def _unavailable(reason: str) -> UnavailableError:
    log.warning("gateway_store_unavailable", reason=reason)
    return UnavailableError("audit_unavailable", retry_after_s=RETRY_AFTER_S)
