"""Which variant of a bundle's network a machine runs: the append-only table `engine_choices`, each row of the event `engine_chosen`.

`position` orders the rows of all processes (1, 2, ...). The newest row for a bundle and a machine holds, so that all replicas of one
deployment come to run the same; a person's choice and a measurement are rows of the same kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, func, select

from app.records.events import Draft, EventId, seal_draft
from app.records.tables import engine_choices

EVERYWHERE: Final = "*"  # instead of a machine: any without a newer choice of its own
Transact = Callable[[Callable[[Connection], Draft]], EventId]


@dataclass(frozen=True)
class EngineChoice:
    """One row. machine: its fingerprint, or EVERYWHERE; batch: most films in one call of the engine; who: measured or chose it.

    measured: ms per film with all workers busy, by candidate (empty where nothing was measured).
    """

    bundle_digest: str
    machine: str
    variant: str
    batch: int
    measured: Mapping[str, float]
    who: str
    position: int = 0
    at: str = ""


class EngineChoices:
    """The choices of one database.

    Args:
        transact: writes one event made inside the transaction, and returns when it is durable.
    """

    def __init__(self, reader: Engine, transact: Transact) -> None:
        self._reader, self._transact = reader, transact

    def choose(self, choice: EngineChoice) -> int:
        """Write a choice (its `position` and `at` are not looked at) and return its position.

        Raises:
            UnavailableError: audit_unavailable.
        """
        positions: list[int] = []

        def transact(connection: Connection) -> Draft:
            newest: int | None = connection.execute(select(func.max(engine_choices.c.position))).scalar_one()
            positions.append((newest or 0) + 1)
            section = {
                "position": positions[-1],
                "bundle_digest": choice.bundle_digest,
                "machine": choice.machine,
                "variant": choice.variant,
                "batch": choice.batch,
                "measured": dict(choice.measured),
                "who": choice.who,
            }
            return seal_draft("engine_chosen", None, {engine_choices.name: section})

        self._transact(transact)
        return positions[-1]

    def find(self, bundle_digest: str, machine: str) -> EngineChoice | None:
        """The newest choice for this bundle on this machine, or everywhere; None where nobody chose or measured."""
        rows = self._rows(bundle_digest, machine, limit=1)
        return rows[0] if rows else None

    def list(self, bundle_digest: str, machine: str, limit: int = 100) -> tuple[EngineChoice, ...]:
        """As `find`, the newest rows, newest first."""
        return self._rows(bundle_digest, machine, limit)

    def _rows(self, bundle_digest: str, machine: str, limit: int) -> tuple[EngineChoice, ...]:
        columns = engine_choices.c
        query = (
            select(*(columns[name] for name in EngineChoice.__dataclass_fields__))
            .where(columns.bundle_digest == bundle_digest, columns.machine.in_([machine, EVERYWHERE]))
            .order_by(columns.position.desc())
            .limit(limit)
        )
        with self._reader.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return tuple(EngineChoice(**{**row, "measured": json.loads(row["measured"])}) for row in rows)
