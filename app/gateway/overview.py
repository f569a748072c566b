"""What an operator sees and does: the state of the queues, the dead letters, and their second life. No identifiers come out of here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, func, select, update

from app.errors import RequestError
from app.gateway.config import GatewayConfig
from app.gateway.store import Store
from app.gateway.tables import deliveries, films, judgements
from app.gateway.values import DeadLetter, Queue, Status

_FILM, _DELIVERY = "film-", "delivery-"
_MOST: Final = 10_000


def status(store: Store, config: GatewayConfig, now: float) -> Status:
    """One consistent look."""
    used = store.used_bytes()
    with store.read() as connection:
        states = connection.execute(select(films.c.state, func.count()).group_by(films.c.state))
        waiting = films.c.state.in_(("received", "selected"))
        oldest = connection.execute(select(func.min(films.c.received_at)).where(waiting)).scalar()
        refusals = connection.execute(
            select(films.c.code, func.count()).where(films.c.state == "refused").group_by(films.c.code)
        )
        judge_code = connection.execute(
            select(films.c.code)
            .where(films.c.state.in_(("selected", "failed")), films.c.code.is_not(None))
            .order_by(films.c.changed_at.desc())
            .limit(1)
        ).scalar()
        bundle = connection.execute(select(judgements.c.bundle).order_by(judgements.c.id.desc()).limit(1)).scalar()
        return Status(
            films=_counts(states),
            oldest_s=max(0.0, now - oldest) if oldest is not None else 0.0,
            refusals=_counts(refusals),
            judge_code=judge_code,
            bundle=bundle,
            queues={d.name: _queue(connection, d.name, now) for d in config.destination},
            used_bytes=used,
        )


def dead_letters(store: Store, now: float) -> tuple[DeadLetter, ...]:
    """Films on which the service failed and deliveries that were given up, oldest first."""
    with store.read() as connection:
        lost_films = connection.execute(
            select(films.c.id, films.c.code, films.c.attempts, films.c.changed_at)
            .where(films.c.state == "failed")
            .limit(_MOST)
        ).all()
        lost = connection.execute(select(deliveries).where(deliveries.c.state == "dead").limit(_MOST)).all()
    letters = [DeadLetter(f"{_FILM}{r.id}", r.code or "", r.attempts, now - r.changed_at) for r in lost_films]
    letters += [
        DeadLetter(f"{_DELIVERY}{r.id}", r.code or "", r.attempts, now - r.changed_at, r.destination, r.kind)
        for r in lost
    ]
    return tuple(sorted(letters, key=lambda letter: -letter.since_s))


def replay(store: Store, ids: Sequence[str] | None, now: float) -> int:
    """Put dead letters back into their queues, with all tries before them; how many there were.

    Args:
        ids: as `dead_letters` shows them; None for all.

    Raises:
        RequestError: `not_found`; one of the ids is no dead letter. Nothing was changed.
    """
    again = {"attempts": 0, "next_at": 0.0, "changed_at": now}
    with store.write() as connection:
        found_films = set(connection.execute(select(films.c.id).where(films.c.state == "failed")).scalars())
        found = set(connection.execute(select(deliveries.c.id).where(deliveries.c.state == "dead")).scalars())
        known = {f"{_FILM}{n}" for n in found_films} | {f"{_DELIVERY}{n}" for n in found}
        wanted = known if ids is None else set(ids)
        if not wanted <= known:
            raise RequestError("not_found")
        for letter in sorted(wanted):
            number = int(letter.rpartition("-")[2])
            if letter.startswith(_FILM):
                connection.execute(update(films).where(films.c.id == number).values(state="selected", **again))
            else:
                connection.execute(update(deliveries).where(deliveries.c.id == number).values(state="pending", **again))
    return len(wanted)


def _queue(connection: Connection, name: str, now: float) -> Queue:
    mine = deliveries.c.destination == name
    counts = _counts(
        connection.execute(select(deliveries.c.state, func.count()).where(mine).group_by(deliveries.c.state))
    )
    oldest, code = connection.execute(
        select(
            select(func.min(deliveries.c.created_at)).where(mine, deliveries.c.state == "pending").scalar_subquery(),
            select(deliveries.c.code)
            .where(mine, deliveries.c.state.in_(("pending", "dead")), deliveries.c.code.is_not(None))
            .order_by(deliveries.c.changed_at.desc())
            .limit(1)
            .scalar_subquery(),
        )
    ).one()
    return Queue(
        pending=counts.get("pending", 0),
        delivered=counts.get("delivered", 0),
        dead=counts.get("dead", 0),
        oldest_s=max(0.0, now - oldest) if oldest is not None else 0.0,
        code=code,
    )


def _counts(rows: Iterable[Any]) -> dict[Any, int]:
    return {row[0]: row[1] for row in rows}
