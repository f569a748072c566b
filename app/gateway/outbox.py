"""The outbox of one destination: what is pending goes out in order, again and again until it is delivered, given up or too old.

At least once: a message that was sent but not yet recorded as delivered when the process ended is sent again, with the same SOP Instance
UID, MSH-10 or webhook id, by which the other side knows it. While a target is away its queue stands still behind the first message, and
where it cannot be reached at all no message's tries are used up; other destinations have queues and threads of their own. A message on
which the target broke off several times goes behind the others: it may be what ails the target.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import structlog
from sqlalchemy import select, update

from app.errors import RecordsError
from app.gateway.config import Destination, ObjectKind
from app.gateway.failpoints import reached
from app.gateway.retry import is_due, wait_s
from app.gateway.store import Store, drop_unused
from app.gateway.tables import deliveries
from app.gateway.workers import POLL_S, persist

log = structlog.get_logger("cxr.gateway.outbox")

SUSPECT_FROM: Final = 3  # tries of one message that got to the target and ended with it being away


@dataclass(frozen=True, repr=False)
class Message:
    """What is sent. id: the same at every try, 64 hex digits; content: the object as the service made it."""

    id: str
    kind: ObjectKind
    content: bytes


@dataclass(frozen=True)
class Outcome:
    """What came of one try.

    code: why not, one of our words (`timeout`, `http_503`, `dimse_a700`, `hl7_ae`, ...). away: the target as a whole does not answer.
    tried: whether the message itself got there, so that it may be to blame. retry_after_s: what the target asked for.
    """

    state: Literal["delivered", "retry", "dead"]
    code: str | None = None
    away: bool = False
    tried: bool = True
    retry_after_s: float | None = None


DELIVERED = Outcome("delivered")


class Sender(Protocol):
    """Speaks a destination's protocol. Called by one thread only."""

    def send(self, message: Message) -> Outcome:
        """One try, bounded in time. Does not raise for what a target does."""
        ...

    def close(self) -> None: ...


class Outbox:
    """One destination's queue; `step` is called by one thread.

    Args:
        now: seconds since 1970.
        stopping: set when the process is to end.
    """

    def __init__(
        self,
        store: Store,
        destination: Destination,
        sender: Sender,
        *,
        now: Callable[[], float],
        stopping: threading.Event,
    ) -> None:
        self._store, self._destination, self._sender = store, destination, sender
        self._now, self._stopping = now, stopping
        self._pause = (0.0, 0)  # until when the target is left alone, and how often in a row it was away

    def step(self) -> float:
        """Try one message; seconds until the next call."""
        retry, (until, away_times) = self._destination.retry, self._pause
        if not is_due(until, self._now(), retry.max_s):
            return until - self._now()
        row = self._next()
        if row is None:
            return POLL_S
        try:
            content = self._store.get(row.content)
        except RecordsError as error:
            outcome = Outcome("dead", error.code)
        else:
            reached("deliver.before_send")
            outcome = self._try(Message(row.message.partition(":")[2], row.kind, content))
            reached("deliver.after_send")
        attempts, next_at = row.attempts + outcome.tried, row.next_at
        if outcome.away:  # the message stays the first, unless it may be the cause
            if attempts >= SUSPECT_FROM:
                next_at = self._now() + wait_s(retry, attempts)
            self._pause = (self._now() + wait_s(retry, away_times + 1, outcome.retry_after_s), away_times + 1)
        else:
            self._pause = (0.0, 0)
            next_at = self._now() + wait_s(retry, attempts, outcome.retry_after_s)
        if outcome.state == "retry" and attempts >= retry.attempts:
            outcome = Outcome("dead", outcome.code)
        persist(lambda: self._record(row, outcome, attempts, next_at), self._stopping)
        self._log(row, outcome, attempts)
        return 0.0

    def close(self) -> None:
        self._sender.close()

    def _try(self, message: Message) -> Outcome:
        try:
            return self._sender.send(message)
        except (
            Exception
        ) as error:  # a fault of ours or a library's must not stop the queue; its text may hold an object's content
            log.error("gateway_sender_fault", destination=self._destination.name, fault=type(error).__name__)  # noqa: TRY400
            return Outcome("retry", "sender_fault")

    def _next(self) -> Any:
        now, longest_s = self._now(), self._destination.retry.max_s
        query = select(
            deliveries.c.id,
            deliveries.c.kind,
            deliveries.c.message,
            deliveries.c.content,
            deliveries.c.attempts,
            deliveries.c.next_at,
        ).where(deliveries.c.destination == self._destination.name, deliveries.c.state == "pending")
        with self._store.read() as connection:
            for row in connection.execute(query.order_by(deliveries.c.next_at, deliveries.c.id)):
                if is_due(row.next_at, now, longest_s):
                    return row
        return None

    def _record(self, row: Any, outcome: Outcome, attempts: int, next_at: float) -> None:
        values: dict[str, Any] = {"attempts": attempts, "code": outcome.code, "changed_at": self._now()}
        if outcome.state == "retry":
            values |= {"next_at": next_at}
        else:
            values |= {"state": outcome.state}
        if outcome.state == "delivered":
            values |= {"content": None}
        with self._store.write() as connection:
            connection.execute(update(deliveries).where(deliveries.c.id == row.id).values(values))
            if outcome.state == "delivered":
                drop_unused(connection, row.content)
            reached("deliver.before_commit")
        reached("deliver.after_commit")

    def _log(self, row: Any, outcome: Outcome, attempts: int) -> None:
        level = log.info if outcome.state == "delivered" else log.warning
        level(
            "gateway_delivery",
            delivery=row.id,
            destination=self._destination.name,
            kind=row.kind,
            outcome=outcome.state,
            code=outcome.code,
            attempts=attempts,
        )
