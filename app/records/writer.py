"""The audit writer: one thread with one connection; an event is acknowledged only after its commit.

Group commit without a timer: whatever queued while the last commit was on its way to the disk goes into the next one. A failed
commit is never retried, since a retry may report success for lost data: its waiters and all queued ones are refused, the
connection is thrown away, a new one is opened, the chain's head is read again (the failed commit may have landed), and only a real
write, the event `audit_recovered`, makes the writer healthy again.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import structlog
from sqlalchemy import Connection, Table
from sqlalchemy.exc import SQLAlchemyError

from app.errors import CxrError, RecordsError, UnavailableError
from app.records.anchors import Anchors
from app.records.chain import GENESIS, Event, Head, timestamp
from app.records.counts import Counts
from app.records.database import Database, failure_reason, insert, lock_exclusively
from app.records.events import Draft, EventId, prepare, seal_draft
from app.records.heads import head_of, newest_heads
from app.records.keyring import KeyRing, Mac
from app.records.projection import Row, event_columns
from app.records.tables import audit_events, audit_payloads
from app.records.waiters import Waiter, deliver

log = structlog.get_logger("cxr.records")

Role = Literal["serve", "cli"]
Transact = Callable[[Connection], Draft]
BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
HEADS_NAMED: Final = 64  # a chain's first event names the heads of this many other chains, newest first
RETRY_AFTER_S: Final = 1.0
ROOM_BYTES: Final = 32_768  # what must fit before a full disk counts as having room again
TICK_S: Final = 60.0


@dataclass(frozen=True)
class Limits:
    """queue_max: events that may wait; group_max: events in one commit; wait_s: seconds a caller waits."""

    queue_max: int
    group_max: int
    wait_s: float


@dataclass(frozen=True)
class _Job:
    """One event to write. `transact` makes it inside the transaction, alone in its group, and may refuse with a CxrError."""

    draft: Draft | None
    transact: Transact | None
    waiter: Waiter | None


def unavailable() -> UnavailableError:
    return UnavailableError("audit_unavailable", retry_after_s=RETRY_AFTER_S)


class AuditWriter:
    """Owns this process's chain.

    Args:
        observe: called after every commit with the group's size and the seconds from its begin to the disk.
        observe_failure: called after every commit that failed.
    """

    def __init__(
        self,
        database: Database,
        ring: KeyRing,
        anchors: Anchors,
        *,
        role: Role,
        limits: Limits,
        counts: Counts,
        observe: Callable[[int, float], None] | None = None,
        observe_failure: Callable[[], None] | None = None,
        tick_s: float = TICK_S,
    ) -> None:
        self.chain_id = secrets.token_hex(8)
        self.reason: str | None = None
        self._database, self._ring, self._anchors = database, ring, anchors
        self._role, self._limits, self._counts, self._tick_s = role, limits, counts, tick_s
        self._observe, self._observe_failure = observe, observe_failure
        self._queue: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._connection: Connection | None = None
        self._head = Head(self.chain_id, -1, GENESIS)
        self._possible = {self._head}  # where the chain may stand: acknowledged, or tried by a commit that failed
        self._logged = self._head
        self._failures = 0
        self._next_tick = time.monotonic() + tick_s
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)

    # callers' side, any thread

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def head(self) -> Head:
        """The newest acknowledged event."""
        return self._head

    def start(self) -> None:
        """Open the connection and begin. A service starts its chain now, a command with its first event.

        Raises:
            RecordsError: the database is away, not as it must be, or was written with another key ring.
        """
        try:
            self._connection = self._database.writer.connect()
            if self._role == "serve":
                self._commit([])
        except CxrError:
            self._discard_connection()
            raise
        except Exception as error:
            self._discard_connection()
            raise RecordsError(failure_reason(error), f"the audit store cannot be written: {error}") from error
        log.info("audit_writer_started", chain_id=self.chain_id, role=self._role)
        self._thread.start()

    def submit(self, waiter: Waiter, *, draft: Draft | None = None, transact: Transact | None = None) -> None:
        """Queue one event; its waiter hears of it.

        Raises:
            UnavailableError: audit_unavailable, the queue is full or the writer not healthy.
        """
        with self._wake:
            if self.reason is not None or self._closing or len(self._queue) >= self._limits.queue_max:
                raise unavailable()
            self._queue.append(_Job(draft, transact, waiter))
            self._wake.notify()

    def close(self, timeout_s: float) -> bool:
        """Write what is queued and what is counted, then end the thread. False when it did not end in time."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # the writer's thread

    def _run(self) -> None:
        try:
            while self.reason is None or self._recover():
                group = self._next_group()
                if group is None:
                    self._flush_counts(None)
                    break
                if group:
                    self._write(group)
                del group  # nobody's future is kept alive while waiting for work
        finally:
            with self._wake:
                self.reason = self.reason or "audit_writer_ended"
            self._discard_connection()

    def _next_group(self) -> list[_Job] | None:
        """Wait for work. None when closing with nothing left; empty after a tick."""
        with self._wake:
            while not self._queue:
                if self._closing:
                    return None
                remaining = self._next_tick - time.monotonic()
                if remaining <= 0:
                    break
                self._wake.wait(remaining)
            group: list[_Job] = []
            while self._queue and len(group) < self._limits.group_max:
                if self._queue[0].transact is not None and group:
                    break
                group.append(self._queue.popleft())
                if group[-1].transact is not None:
                    break
        if time.monotonic() >= self._next_tick:
            self._tick()
        return group

    def _tick(self) -> None:
        self._next_tick = time.monotonic() + self._tick_s
        if self._head != self._logged:
            self._logged = self._head
            log.info("audit_head", chain_id=self.chain_id, seq=self._head.seq, mac=self._head.mac)
        self._flush_counts(datetime.now(UTC))

    def _flush_counts(self, before: datetime | None) -> None:
        events = self._counts.take(before) if self.reason is None else []
        size = self._limits.group_max
        for i in range(0, len(events), size):
            self._write([_Job(prepare(event), None, None) for event in events[i : i + size]])

    def _write(self, group: Sequence[_Job]) -> None:
        if self.reason is not None:
            deliver([(job.waiter, unavailable()) for job in group])
            return
        try:
            ids = self._commit(group)
        except _RefusalError as refusal:
            deliver([(group[0].waiter, refusal.error)])
        except Exception as error:  # whatever it was, the events are not known to be durable
            self._fail(group, error)
        else:
            deliver([(job.waiter, event_id) for job, event_id in zip(group, ids, strict=True)])

    def _commit(self, group: Sequence[_Job]) -> list[EventId]:
        """One transaction: the chain's first event if need be, then the group's; durable and anchored on return."""
        connection = self._connection
        if connection is None:
            raise RecordsError("audit_store_unavailable", "no connection")
        began = time.perf_counter()
        head = self._head
        events: list[Row] = []
        payloads: list[Row] = []
        at = timestamp(datetime.now(UTC))
        with connection.begin():
            drafts = self._drafts(connection, group)
            for draft in drafts:
                row = self._event_row(head, draft, at)
                head = Head(self.chain_id, head.seq + 1, row["mac"])
                events.append(row)
                payloads.append({"chain_id": head.chain_id, "seq": head.seq, "payload": draft.payload})
            insert(connection, audit_events, events)
            insert(connection, audit_payloads, payloads)
            _insert_rows(connection, drafts, events)
            self._possible.add(head)
        self._anchors.append(head, at)
        self._head, self._possible = head, {head}
        if self._observe is not None:
            self._observe(len(drafts), time.perf_counter() - began)
        first = head.seq - len(group) + 1
        return [EventId(self.chain_id, first + i) for i in range(len(group))]

    def _drafts(self, connection: Connection, group: Sequence[_Job]) -> list[Draft]:
        drafts = [] if self._head.seq >= 0 else [self._chain_started(connection)]
        for job in group:
            if job.draft is not None:
                drafts.append(job.draft)
            elif job.transact is not None:
                lock_exclusively(connection)
                try:
                    drafts.append(job.transact(connection))
                except (SQLAlchemyError, OSError):
                    raise
                except Exception as error:
                    raise _RefusalError(error) from error
        return drafts

    def _chain_started(self, connection: Connection) -> Draft:
        """The first event names the chain's writer and the heads of others, so that a chain that is deleted later is missed."""
        lock_exclusively(connection)
        heads = newest_heads(connection, HEADS_NAMED)
        for head in heads:
            if not self._ring.knows("audit_mac", Mac.parse(head.mac).key_id):
                raise RecordsError(
                    "keyring_mismatch", "the database holds events of another key ring; put the right one in place"
                )
        return seal_draft(
            "chain_started",
            None,
            {"role": self._role, "heads": {h.chain_id: [h.seq, h.mac] for h in heads}},
        )

    def _event_row(self, head: Head, draft: Draft, at: str) -> Row:
        event = Event(
            chain_id=self.chain_id,
            seq=head.seq + 1,
            at=at,
            kind=draft.kind,
            payload_sha256=draft.payload_sha256,
            key_id=draft.key_id,
            prev_mac=head.mac,
        )
        ring_key_id = self._ring.current("audit_mac")
        return event.row(str(self._ring.mac("audit_mac", event.mac_input(ring_key_id))))

    # after a failure

    def _fail(self, group: Sequence[_Job], error: Exception) -> None:
        with self._wake:
            self.reason = failure_reason(error)
            refused = [*group, *self._queue]
            self._queue.clear()
        log.error("audit_commit_failed", reason=self.reason, error=str(error), events=len(group), refused=len(refused))
        self._failures += 1
        if self._observe_failure is not None:
            self._observe_failure()
        self._discard_connection()
        deliver([(job.waiter, unavailable()) for job in refused])

    def _recover(self) -> bool:
        """Try again, ever more slowly, until a write succeeds. False when closing."""
        attempt = 0
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing, BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
                if self._closing:
                    return False
            attempt += 1
            try:
                self._reconnect()
                facts = {"reason": self.reason, "failed_commits": self._failures}
                if self.reason == "audit_store_full":  # a small event may still fit where an answer's does not
                    facts["room"] = " " * ROOM_BYTES
                self._commit([_Job(seal_draft("audit_recovered", None, facts), None, None)])
            except Exception as error:  # the next attempt follows
                self.reason = failure_reason(error)
                log.warning("audit_recovery_failed", reason=self.reason, error=str(error), attempt=attempt)
                self._discard_connection()
            else:
                log.info("audit_recovered", chain_id=self.chain_id, seq=self._head.seq)
                self._failures = 0
                self.reason = None
                return True

    def _reconnect(self) -> None:
        """A new connection; the chain goes on from where the database says that it stands."""
        self._connection = self._database.writer.connect()
        with self._connection.begin():
            head = head_of(self._connection, self.chain_id) or Head(self.chain_id, -1, GENESIS)
        if head not in self._possible:
            raise RecordsError("audit_chain_lost", f"the database has lost events of chain {self.chain_id}")
        self._head = head

    def _discard_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.invalidate()
            connection.close()
        except Exception as error:  # it is thrown away because it is broken
            log.warning("audit_connection_not_closed", error=str(error))


class _RefusalError(Exception):
    """A `transact` declined; nothing was written, and its caller alone hears of it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _insert_rows(connection: Connection, drafts: Sequence[Draft], events: Sequence[Mapping[str, Any]]) -> None:
    """The projected rows of a group, one statement for each table."""
    by_table: dict[Table, list[Row]] = {}
    for draft, event in zip(drafts, events, strict=True):
        for table, own in draft.rows:
            columns = event_columns(table, event["chain_id"], event["seq"], event["at"], event["key_id"])
            by_table.setdefault(table, []).append(columns | own)
    for table, rows in by_table.items():
        insert(connection, table, rows)
