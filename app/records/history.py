"""Which bundle was asked for, by whom, and what came of it: the append-only table `bundle_history`.

`position` orders the rows of all processes (1, 2, ...); a request's id is its position. Each process writes its own outcome of a
request; the live bundle is the newest `activated` row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from sqlalchemy import Connection, Engine, Select, func, select

from app.records.events import Draft, EventId, seal_draft
from app.records.tables import bundle_history

GATE_ACCEPTED: Final = "failed gate accepted"

Outcome = Literal["activated", "failed"]
Transact = Callable[[Callable[[Connection], Draft]], EventId]


class BundleName(Protocol):
    """Anything with a name and a version, such as a bundle reference."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...


@dataclass(frozen=True)
class HistoryRow:
    """One row. request: position of the request that an outcome belongs to (None: at start, nobody asked); process: its chain.

    reason: why it failed; of a request or an activation, that `who` accepted a bundle whose promotion gate failed, and which lines did.
    """

    position: int
    at: str
    event: Literal["requested", "activated", "failed"]
    request: int | None
    name: str
    version: str
    digest: str
    who: str
    process: str | None
    reason: str | None

    @property
    def accepts_failed_gate(self) -> bool:
        """Whether this bundle may serve although its promotion gate failed."""
        return self.event != "failed" and (self.reason or "").startswith(GATE_ACCEPTED)


def gate_accepted(lines: Sequence[str]) -> str:
    """The reason of a request or an activation that accepts that these lines of the promotion gate failed."""
    return f"{GATE_ACCEPTED}: {', '.join(lines)}"


_COLUMNS = tuple(bundle_history.c[name] for name in HistoryRow.__dataclass_fields__)


class BundleHistory:
    """The history of one database, seen by one process.

    Args:
        process: what this process' outcomes are signed with: its chain.
        transact: writes one event made inside the transaction, and returns when it is durable.
    """

    def __init__(self, process: str, reader: Engine, transact: Transact) -> None:
        self._process, self._reader, self._transact = process, reader, transact

    def request_activation(
        self, ref: BundleName, digest: str, who: str, *, by: str | None = None, reason: str | None = None
    ) -> int:
        """Ask every process to serve a bundle; returns the request's id.

        Args:
            digest: of the bundle that was verified; a process that finds another one refuses.
            who: for people: the name of the key or of the command.
            by: id of the API key, if there is one.
            reason: `gate_accepted(...)` where `who` accepts a bundle whose promotion gate failed.
        """
        return self._append("requested", ref, digest, who=who, by=by, reason=reason)

    def write_outcome(
        self,
        outcome: Outcome,
        ref: BundleName,
        digest: str,
        *,
        who: str,
        request: int | None,
        reason: str | None = None,
    ) -> int:
        """Say what this process did with a request (None: at start, nobody asked); returns the row's position."""
        return self._append(outcome, ref, digest, who=who, request=request, reason=reason)

    def live(self) -> HistoryRow | None:
        """The newest `activated` row; None on a database where nothing ever was."""
        rows = self._rows(
            select(*_COLUMNS)
            .where(bundle_history.c.event == "activated")
            .order_by(bundle_history.c.position.desc())
            .limit(1)
        )
        return rows[0] if rows else None

    def pending(self, since: int = 0) -> tuple[HistoryRow, ...]:
        """Requests after position `since` that this process has no outcome of, oldest first."""
        history = bundle_history.c
        mine = select(history.request).where(history.process == self._process, history.request.is_not(None))
        return self._rows(
            select(*_COLUMNS)
            .where(history.event == "requested", history.position > since, history.position.not_in(mine))
            .order_by(history.position)
        )

    def outcomes(self, request: int) -> tuple[HistoryRow, ...]:
        """What the processes did with one request so far."""
        history = bundle_history.c
        return self._rows(select(*_COLUMNS).where(history.request == request).order_by(history.position))

    def list(self, limit: int = 100) -> tuple[HistoryRow, ...]:
        """The newest rows, newest first."""
        return self._rows(select(*_COLUMNS).order_by(bundle_history.c.position.desc()).limit(limit))

    def position(self) -> int:
        """Of the newest row; 0 when there is none."""
        with self._reader.connect() as connection:
            return _position(connection)

    def _append(
        self,
        event: str,
        ref: BundleName,
        digest: str,
        *,
        who: str,
        request: int | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> int:
        positions: list[int] = []

        def transact(connection: Connection) -> Draft:
            positions.append(_position(connection) + 1)
            section = {
                "position": positions[-1],
                "event": event,
                "request": request,
                "name": ref.name,
                "version": ref.version,
                "digest": digest,
                "who": who,
                "process": None if event == "requested" else self._process,
                "reason": reason,
            }
            return seal_draft(f"bundle_{event}", by, {bundle_history.name: section})

        self._transact(transact)
        return positions[-1]

    def _rows(self, query: Select[Any]) -> tuple[HistoryRow, ...]:
        with self._reader.connect() as connection:
            return tuple(HistoryRow(*row) for row in connection.execute(query))


def _position(connection: Connection) -> int:
    newest: int | None = connection.execute(select(func.max(bundle_history.c.position))).scalar_one()
    return newest or 0
