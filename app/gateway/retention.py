"""What is too old goes: sealed films and results at the TTL, delivered or not; rows of what is done after the history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy import delete, select, update

from app.gateway.config import Study
from app.gateway.failpoints import reached
from app.gateway.store import Store, drop_unused
from app.gateway.tables import deliveries, films, judgements

log = structlog.get_logger("cxr.gateway.retention")

EVERY_S: Final = 60.0
_HOUR_S, _DAY_S = 3_600.0, 86_400.0


def sweep(store: Store, study: Study, now: Callable[[], float]) -> tuple[int, int]:
    """Expire what is older than the TTL, forget what is older than the history.

    Returns:
        how many films and how many deliveries expired: they were lost to their age, which is logged as an error.
    """
    old, forgotten = now() - study.ttl_hours * _HOUR_S, now() - study.history_days * _DAY_S
    with store.write() as connection:
        late_films = connection.execute(
            select(films.c.id, films.c.content).where(
                films.c.state.in_(("received", "selected", "failed")), films.c.received_at < old
            )
        ).all()
        late = connection.execute(
            select(deliveries.c.id, deliveries.c.content).where(
                deliveries.c.state.in_(("pending", "dead")), deliveries.c.created_at < old
            )
        ).all()
        for table, rows in ((films, late_films), (deliveries, late)):
            for row in rows:
                connection.execute(
                    update(table).where(table.c.id == row.id).values(state="expired", content=None, changed_at=now())
                )
        drop_unused(connection, *(row.content for row in (*late_films, *late)))
        connection.execute(delete(films).where(films.c.content.is_(None), films.c.changed_at < forgotten))
        connection.execute(
            delete(deliveries).where(deliveries.c.content.is_(None), deliveries.c.changed_at < forgotten)
        )
        connection.execute(delete(judgements).where(judgements.c.at < forgotten))
        reached("sweep.before_commit")
    reached("sweep.after_commit")
    if late_films or late:
        log.error("gateway_expired", films=len(late_films), deliveries=len(late))
    return len(late_films), len(late)
