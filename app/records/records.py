"""`Records`: the one door to everything that is kept in SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import UTC, datetime
from typing import Self, TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from app.domain import Principal, Source
from app.errors import ConfigurationError, CxrError, RecordsError
from app.records.anchors import FILE_NAME, Anchors
from app.records.choices import EngineChoices
from app.records.counts import Counts
from app.records.database import Database, failure_reason, migrate
from app.records.events import AuditEvent, Draft, EventId, FilmSource, PredictionRecord, prepare
from app.records.history import BundleHistory
from app.records.idempotency import KeyUse, Repeated, find_first, first_use, repeat_draft
from app.records.keycache import KeyCache
from app.records.keyring import KeyRing
from app.records.keys import ApiKeys
from app.records.predictions import WINDOW_MAX, PredictionWindow, read_window
from app.records.sources import FoundFilm, Identifier, find_films, pseudonymous
from app.records.verify import VerifyReport, verify
from app.records.waiters import AsyncWaiter, ThreadWaiter
from app.records.writer import AuditWriter, Limits, Role, unavailable
from app.settings import Settings

log = structlog.get_logger("cxr.records")
T = TypeVar("T")


class Records:
    """The audit chain, predictions, API keys and bundle history of one database, as one process sees them.

    Made by `open`. keys: make, revoke, list, import; history: bundle activations; choices: which variant
    of a bundle's network a machine runs. Their methods block; on an event loop use `query`.
    """

    def __init__(
        self, settings: Settings, database: Database, ring: KeyRing, writer: AuditWriter, counts: Counts
    ) -> None:
        self._settings, self._database, self._writer, self._counts = settings, database, writer, counts
        self._ring = ring
        self._wait_s = settings.audit_wait_s
        self._queries = ThreadPoolExecutor(max_workers=2, thread_name_prefix="records-query")
        self.keys = ApiKeys(ring, database.reader, self._transact, self._keys_changed)
        self.history = BundleHistory(writer.chain_id, database.reader, self._transact)
        self.choices = EngineChoices(database.reader, self._transact)
        self._key_cache = KeyCache(self.keys, database.reader)

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        role: Role,
        observe_commit: Callable[[int, float], None] | None = None,
        observe_failure: Callable[[], None] | None = None,
        tick_s: float = 60.0,
    ) -> Self:
        """Open the key ring (made if nothing was ever recorded), migrate, and start the writer.

        Args:
            role: a service begins its chain at once, a command with its first event.
            observe_commit: called by the writer after each commit with the number of events and the seconds it took.
            observe_failure: called by the writer after each commit that failed.
            tick_s: how often counts are written and the chain's head is logged.

        Raises:
            RecordsError: the database is away, read-only, not durable, of another version, or of another key ring.
            ConfigurationError: settings with which there is no database.
        """
        try:
            settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError("state_dir", f"{settings.state_dir} is no folder: {error.strerror}") from error
        database = Database(settings)
        try:
            ring = KeyRing.open(settings.secrets_path / "keyring.json", create=not database.has_events())
            migrate(database.writer)
            anchors = Anchors(settings.state_dir / FILE_NAME)
            anchors.tidy()
            counts = Counts()
            limits = Limits(settings.audit_queue_max, settings.audit_group_max, settings.audit_wait_s)
            writer = AuditWriter(
                database,
                ring,
                anchors,
                role=role,
                limits=limits,
                counts=counts,
                observe=observe_commit,
                observe_failure=observe_failure,
                tick_s=tick_s,
            )
            writer.start()
            records = cls(settings, database, ring, writer, counts)
            records._key_cache.start()
        except CxrError:
            database.dispose()
            raise
        except (SQLAlchemyError, OSError) as error:
            database.dispose()
            raise RecordsError(failure_reason(error), f"the records cannot be opened: {error}") from error
        return records

    @property
    def healthy(self) -> bool:
        """Whether the next event can be recorded, as far as is known."""
        return self._writer.reason is None

    @property
    def reason(self) -> str | None:
        """Why not: a stable word such as `audit_store_full`."""
        return self._writer.reason

    @property
    def queued(self) -> int:
        """Events that wait for the writer."""
        return self._writer.queued

    @property
    def chain_id(self) -> str:
        """This process's chain."""
        return self._writer.chain_id

    async def record(
        self, event: AuditEvent, *, prediction: PredictionRecord | None = None, source: Source | None = None
    ) -> EventId:
        """Record an event, with its prediction's row, and return when both are durable.

        A caller that is cancelled or gives up may find its event recorded: an event says decided, not delivered.

        Args:
            source: whose film it was; only pseudonyms of it are kept.

        Raises:
            UnavailableError: audit_unavailable, it failed or took longer than `audit_wait_s`.
            TypeError, ValueError: the event cannot be serialised; others are not affected.
        """
        return await self._written(draft=prepare(event, prediction, source=self._pseudonymous(source)))

    async def record_once(
        self,
        event: AuditEvent,
        use: KeyUse,
        fingerprint: str,
        judged_at: datetime,
        *,
        prediction: PredictionRecord | None = None,
        source: Source | None = None,
    ) -> tuple[EventId, Repeated | None]:
        """As `record`, unless this Idempotency-Key was used before: then an event `repeat` that names the first one, and no rows.

        Args:
            event: its payload has the member `request_id`. fingerprint: see `Repeated`. judged_at: when the answer was made.

        Returns:
            The event that was written, and the first use that it repeats.

        Raises:
            RequestError: idempotency_key_reused, the first use was another request. UnavailableError, TypeError, ValueError: as `record`.
        """
        row = first_use(self._ring, use, fingerprint, event.payload["request_id"], judged_at)
        draft = prepare(event, prediction, source=self._pseudonymous(source), use=row)
        found: list[Repeated] = []

        def transact(connection: Connection) -> Draft:
            first = find_first(connection, self._ring, use)
            if first is None:
                return draft
            first.check(fingerprint)
            found.append(first)
            return repeat_draft(event, first)

        written = await self._written(transact=transact)
        return written, (found[-1] if found else None)

    async def first_use(self, use: KeyUse) -> Repeated | None:
        """The first use of an Idempotency-Key, as far as is known now; what counts is what `record_once` finds.

        Raises:
            UnavailableError: audit_unavailable.
        """

        def find() -> Repeated | None:
            with self._database.reader.connect() as connection:
                return find_first(connection, self._ring, use)

        return await self._read("first_use", find)

    def find_films(self, what: Identifier, *parts: str) -> tuple[FoundFilm, ...]:
        """The events about a patient (issuer, identifier), a study or an instance, newest first (blocking)."""
        return find_films(self._database.reader, self._ring, what, *parts)

    def record_now(self, event: AuditEvent, *, prediction: PredictionRecord | None = None) -> EventId:
        """As `record`, blocking the calling thread."""
        return self._wait(draft=prepare(event, prediction))

    def count(self, kind: str, key_prefix: str | None = None, code: str | None = None) -> None:
        """Count a request that was turned away; one event a minute tells of all alike. Costs microseconds, never fails or waits.

        Args:
            kind, code: words of the service; code defaults to kind. key_prefix: id part of the key, if there was one.
        """
        self._counts.add(datetime.now(UTC), kind, code or kind, key_prefix)

    def authenticate(self, text: str) -> Principal | None:
        """Who presents this key; from memory, safe on the event loop. See `KeyCache.authenticate`."""
        return self._key_cache.authenticate(text)

    async def authenticate_async(self, text: str) -> Principal | None:
        """As `authenticate`; a key that was made a moment ago by another process is found too."""
        return await self._key_cache.authenticate_async(text)

    async def window(
        self, since: datetime, until: datetime, *, digest: str | None = None, limit: int = WINDOW_MAX
    ) -> PredictionWindow:
        """The predictions in [since, until), of one bundle or of all; see `PredictionWindow`.

        Raises:
            UnavailableError: audit_unavailable, they cannot be read.
        """
        return await self._read(
            "window", lambda: read_window(self._database.reader, since, until, digest=digest, limit=limit)
        )

    async def query(self, call: Callable[[], T]) -> T:
        """Run blocking work of the records on their own threads."""
        return await asyncio.get_running_loop().run_in_executor(self._queries, call)

    def verify(self) -> VerifyReport:
        """Check every record (blocking; see `verify.verify`)."""
        return verify(self._settings)

    def close(self) -> None:
        """Write what is queued and counted, then let go of the database."""
        self._key_cache.close()
        self._queries.shutdown(wait=True, cancel_futures=True)
        self._database.reader.dispose()
        # last: as the last connection of all it brings SQLite's log back into the database file
        if not self._writer.close(timeout_s=2 * self._wait_s):
            log.error("audit_writer_did_not_end")
        self._database.dispose()

    async def _read(self, what: str, call: Callable[[], T]) -> T:
        try:
            return await self.query(call)
        except (SQLAlchemyError, OSError) as error:
            log.warning("records_not_read", what=what, reason=failure_reason(error), error=str(error))
            raise unavailable() from error

    def _pseudonymous(self, source: Source | None) -> FilmSource | None:
        return None if source is None else pseudonymous(self._ring, source)

    async def _written(
        self, *, draft: Draft | None = None, transact: Callable[[Connection], Draft] | None = None
    ) -> EventId:
        waiter = AsyncWaiter.here()
        self._writer.submit(waiter, draft=draft, transact=transact)
        try:
            async with asyncio.timeout(self._wait_s):
                return await waiter.future
        except TimeoutError:
            raise unavailable() from None

    def _transact(self, transact: Callable[[Connection], Draft]) -> EventId:
        return self._wait(transact=transact)

    def _wait(self, *, draft: Draft | None = None, transact: Callable[[Connection], Draft] | None = None) -> EventId:
        waiter = ThreadWaiter()
        self._writer.submit(waiter, draft=draft, transact=transact)
        try:
            return waiter.future.result(self._wait_s)
        except FutureTimeoutError:
            waiter.future.cancel()
            raise unavailable() from None

    def _keys_changed(self) -> None:
        self._key_cache.refresh()
