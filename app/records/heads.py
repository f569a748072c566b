"""Questions to the database about chains and their heads."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, select, text

from app.records.chain import Head
from app.records.tables import audit_events

# one index look-up per chain instead of a walk over every event
_NEWEST: Final = text("""
    WITH RECURSIVE chains(chain_id) AS (
        SELECT min(chain_id) FROM audit_events
        UNION ALL
        SELECT (SELECT min(e.chain_id) FROM audit_events e WHERE e.chain_id > chains.chain_id)
        FROM chains WHERE chains.chain_id IS NOT NULL
    )
    SELECT e.chain_id, e.seq, e.mac FROM chains JOIN audit_events e ON e.chain_id = chains.chain_id
    AND e.seq = (SELECT max(x.seq) FROM audit_events x WHERE x.chain_id = chains.chain_id)
    ORDER BY e.at DESC, e.chain_id LIMIT :limit
""")


def head_of(connection: Connection, chain_id: str) -> Head | None:
    """The newest event of one chain; None when it has none."""
    events = audit_events.c
    row = connection.execute(
        select(events.seq, events.mac).where(events.chain_id == chain_id).order_by(events.seq.desc()).limit(1)
    ).first()
    return Head(chain_id, row.seq, row.mac) if row else None


def newest_heads(connection: Connection, limit: int) -> list[Head]:
    """The heads of the chains that were written to last, newest first."""
    return [Head(*row) for row in connection.execute(_NEWEST, {"limit": limit})]
