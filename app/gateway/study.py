"""Films from their arrival to their selection. A film is durable when `take` returns; its study waits until it has been quiet."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import Connection, func, insert, select, update

from app.errors import RecordsError, UnavailableError
from app.gateway.config import GatewayConfig
from app.gateway.failpoints import reached
from app.gateway.header import FilmFacts, read_facts
from app.gateway.select import Candidate, choose, matching
from app.gateway.store import RETRY_AFTER_S, Store, drop_unused
from app.gateway.tables import deliveries, films
from app.gateway.values import Received

log = structlog.get_logger("cxr.gateway.study")

_WAITING: Final = ("received", "selected")
_MOST_FILMS: Final = 10_000  # of one study that are looked at together


@dataclass(frozen=True)
class Studies:
    """Takes films in, and selects from studies that have become quiet.

    Args:
        max_bytes: largest file.
        now: seconds since 1970.
    """

    store: Store
    config: GatewayConfig
    max_bytes: int
    now: Callable[[], float]

    def take(self, data: bytes, peer: str) -> Received:
        """Keep a film, unless it is here already, unwanted by every rule, or a result of ours that found its way back.

        Raises:
            ImageError: coded; the file is not well formed or too large.
            UnavailableError: it could not be made durable.
        """
        facts = read_facts(data, self.max_bytes)
        sha256 = hashlib.sha256(data).hexdigest()
        row = {
            name: self.store.ring.pseudonym(f"{name}:{uid}")
            for name, uid in (
                ("instance", facts.sop_instance_uid),
                ("series", facts.series_uid),
                ("study", facts.study_uid),
            )
        }
        rule = matching(self.config.select, facts, peer)
        wanted = rule is not None and rule.action == "judge"
        row |= {"sha256": sha256, "peer": peer}
        if wanted and self.store.used_bytes() + len(data) > self.config.study.spool_max_bytes:
            log.warning("gateway_spool_full")
            raise UnavailableError("audit_unavailable", retry_after_s=RETRY_AFTER_S)
        with self.store.write() as connection:
            wanted = wanted and not _is_ours(connection, row["instance"])
            new = self._keep(connection, row, facts, data if wanted else None)
            reached("receive.before_commit")
        reached("receive.after_commit")
        return Received(new, not wanted, facts.sop_class_uid, facts.sop_instance_uid)

    def select_quiet(self) -> tuple[int, float]:
        """Select from every study that has been quiet long enough; how many films were selected, and seconds until the next look."""
        now = self.now()
        latest = func.max(films.c.received_at)
        with self.store.read() as connection:
            waiting = connection.execute(
                select(films.c.study, latest)
                .where(films.c.state == "received")
                .group_by(films.c.study)
                .order_by(latest)
            ).all()
        selected, wait = 0, self.config.study.quiet_s + 1.0
        for study, last in waiting:
            quiet_at = last + self.config.study.quiet_s
            if now >= quiet_at or last > now + 60.0:  # the clock was put back: do not wait for it
                selected += self._select(study)
            else:
                wait = min(wait, quiet_at - now)
        return selected, wait

    def _keep(self, connection: Connection, row: dict[str, Any], facts: FilmFacts, data: bytes | None) -> bool:
        """Insert the film's row, or begin anew with it: a film that is sent again is judged again if the bundle has changed since."""
        now = self.now()
        known = connection.execute(
            select(films.c.id, films.c.state, films.c.content).where(
                films.c.instance == row["instance"], films.c.sha256 == row["sha256"]
            )
        ).one_or_none()
        if known is not None and (known.state in _WAITING or data is None):
            return False
        content = None if data is None else self.store.put(connection, f"film/{row['sha256']}", data)
        row = row | {
            "facts": self.store.ring.seal(facts.to_json(), f"facts/{row['sha256']}".encode()),
            "content": content,
            "state": "ignored" if data is None else "received",
            "attempts": 0,
            "next_at": 0.0,
            "code": None,
            "received_at": now,
            "changed_at": now,
        }
        if known is None:
            connection.execute(insert(films).values(row))
        else:
            connection.execute(update(films).where(films.c.id == known.id).values(row))
            drop_unused(connection, known.content)
        return True

    def _select(self, study: str) -> int:
        now = self.now()
        with self.store.write() as connection:
            rows = connection.execute(
                select(films)
                .where(films.c.study == study, films.c.state == "received")
                .order_by(films.c.id)
                .limit(_MOST_FILMS)
            ).all()
            candidates = [c for row in rows if (c := self._candidate(row)) is not None]
            chosen = choose(candidates, self.config.select, _taken(connection, study))
            for row in rows:
                rule = chosen.get(row.id)
                if rule is not None:
                    values: dict[str, Any] = {"state": "selected", "rule": rule, "next_at": 0.0}
                elif row.id in chosen:
                    values = {"state": "ignored", "content": None}
                else:
                    values = {"state": "failed", "code": "sealed_blob_damaged"}
                connection.execute(update(films).where(films.c.id == row.id).values(changed_at=now, **values))
                if "content" in values:
                    drop_unused(connection, row.content)
            reached("select.before_commit")
        reached("select.after_commit")
        selected = sum(rule is not None for rule in chosen.values())
        log.info("gateway_study_selected", films=len(rows), selected=selected)
        return selected

    def _candidate(self, row: Any) -> Candidate | None:
        try:
            facts = FilmFacts.from_json(self.store.ring.unseal(row.facts, f"facts/{row.sha256}".encode()))
        except RecordsError as error:
            log.warning("gateway_film_damaged", film=row.id, code=error.code)
            return None
        return Candidate(row.id, row.series, row.peer, facts, row.rule)


def _is_ours(connection: Connection, instance: str) -> bool:
    """Whether this object is a result that we made: an archive that forwards everything sends those back too."""
    return (
        connection.execute(select(deliveries.c.id).where(deliveries.c.message == instance).limit(1)).first() is not None
    )


def _taken(connection: Connection, study: str) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for rule, series, count in connection.execute(
        select(films.c.rule, films.c.series, func.count())
        .where(films.c.study == study, films.c.state.in_(("selected", "judged")), films.c.rule.is_not(None))
        .group_by(films.c.rule, films.c.series)
    ):
        counts[rule, series] += count
        counts[rule, ""] += count
    return counts
