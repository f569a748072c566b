"""Judging: selected films go to the service; what comes back is stored in one transaction with everything that is to be delivered.

The row of `judgements`, unique by film and bundle, is what makes a second set of results impossible: whoever comes second inserts
nothing. Until that transaction is durable the film stays selected, and judging it again gives the same objects.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.sqlite import insert

from app.errors import ImageError, RecordsError
from app.gateway.config import GatewayConfig
from app.gateway.failpoints import reached
from app.gateway.part10 import read_meta
from app.gateway.retry import is_due, wait_s
from app.gateway.service_client import Judged, JudgeError, Refused, ResultObject, ServiceClient
from app.gateway.store import Store, drop_unused
from app.gateway.tables import deliveries, films, judgements
from app.gateway.workers import POLL_S, persist

log = structlog.get_logger("cxr.gateway.judge")

_DICOM = ("sr", "sc", "gsps", "pdf_dicom")


class Film(NamedTuple):
    """The row of a film that is to be judged; instance is a pseudonym."""

    id: int
    instance: str
    content: int
    attempts: int
    next_at: float


class Judge:
    """Takes one film after the other to the service; any number of threads may call `step`.

    Args:
        now: seconds since 1970.
        stopping: set when the process is to end.
        judged: called after results were stored.
    """

    def __init__(
        self,
        store: Store,
        config: GatewayConfig,
        service: ServiceClient,
        *,
        now: Callable[[], float],
        stopping: threading.Event,
        judged: Callable[[], None],
    ) -> None:
        self._store, self._config, self._service = store, config, service
        self._now, self._stopping, self._judged = now, stopping, judged
        self._guard = threading.Lock()
        self._in_flight: set[str] = set()
        self._pause = (0.0, 0)  # until when the service is left alone, and how often in a row it was away

    def step(self) -> float:
        """Judge one film; seconds until the next call."""
        until, _ = self._pause
        if not is_due(until, self._now(), self._config.service.retry.max_s):
            return until - self._now()
        with self._guard:  # two files of one SOP instance are never judged at the same time
            film = self._next()
            if film is None:
                return POLL_S
            self._in_flight.add(film.instance)
        try:
            self._judge(film)
        finally:
            with self._guard:
                self._in_flight.discard(film.instance)
        return 0.0

    def _next(self) -> Film | None:
        now, longest_s = self._now(), self._config.service.retry.max_s
        with self._store.read() as connection:
            for film in connection.execute(
                select(films.c.id, films.c.instance, films.c.content, films.c.attempts, films.c.next_at)
                .where(films.c.state == "selected")
                .order_by(films.c.next_at, films.c.id)
            ):
                if is_due(film.next_at, now, longest_s) and film.instance not in self._in_flight:
                    return Film(*film)
        return None

    def _judge(self, film: Film) -> None:
        try:
            bundle = self._service.bundle()
            if self._is_judged(film.instance, bundle):
                persist(lambda: self._finish(film, "judged"), self._stopping)
                return
            data = self._store.get(film.content)
            reached("judge.before_request")
            answer = self._service.judge(data)
            rows = self._delivery_rows(film, answer) if isinstance(answer, Judged) else []
            reached("judge.after_answer")
        except JudgeError as error:
            self._failed(film, error)
        except RecordsError as error:
            code = error.code
            persist(lambda: self._finish(film, "failed", code), self._stopping)
        else:
            self._pause = (0.0, 0)
            if persist(lambda: self._record(film, answer, rows), self._stopping):
                self._judged()

    def _is_judged(self, instance: str, bundle: str) -> bool:
        with self._store.read() as connection:
            query = select(judgements.c.id).where(judgements.c.instance == instance, judgements.c.bundle == bundle)
            return connection.execute(query).first() is not None

    def _record(self, film: Film, answer: Judged | Refused, rows: list[tuple[ResultObject, str]]) -> None:
        """The one transaction. A film that was sent anew in the meantime keeps its new content: only what was judged is dropped."""
        now = self._now()
        with self._store.write() as connection:
            if isinstance(answer, Refused):
                self._set(connection, film, {"state": "refused", "code": answer.code, "content": None})
            else:
                self._set(connection, film, {"state": "judged", "code": None, "content": None})
                first = connection.execute(
                    insert(judgements)
                    .values(instance=film.instance, bundle=answer.bundle, at=now)
                    .on_conflict_do_nothing()
                ).rowcount
                for result, message in rows if first else ():
                    self._enqueue(connection, result, message, now)
            reached("judge.before_commit")
        reached("judge.after_commit")
        outcome = answer.code if isinstance(answer, Refused) else "judged"
        log.info("gateway_film_judged", film=film.id, outcome=outcome)

    def _enqueue(self, connection: Connection, result: ResultObject, message: str, now: float) -> None:
        takers = [d.name for d in self._config.destination if result.kind in d.objects]
        content = self._store.put(connection, f"{result.kind}/{message}", result.content)
        for name in takers:
            connection.execute(
                insert(deliveries)
                .values(
                    destination=name,
                    kind=result.kind,
                    message=message,
                    content=content,
                    state="pending",
                    attempts=0,
                    next_at=0.0,
                    created_at=now,
                    changed_at=now,
                )
                .on_conflict_do_nothing()
            )
        drop_unused(connection, content)

    def _delivery_rows(self, film: Film, answer: Judged) -> list[tuple[ResultObject, str]]:
        """Each object with a name that is the same at every try: of the SOP Instance UID where it has one.

        Raises:
            JudgeError: an object that should be DICOM is none.
        """
        rows = []
        for result in answer.objects:
            if result.kind in _DICOM:
                try:
                    name = f"instance:{read_meta(result.content).sop_instance_uid}"
                except ImageError:
                    raise JudgeError("unusable_answer", counts=True) from None
            else:
                name = f"message:{film.instance}:{answer.bundle}:{result.kind}"
            rows.append((result, self._store.ring.pseudonym(name)))
        return rows

    def _failed(self, film: Film, error: JudgeError) -> None:
        retry = self._config.service.retry
        attempts = film.attempts + error.counts
        if error.away:
            _, times = self._pause
            self._pause = (self._now() + wait_s(retry, times + 1, error.retry_after_s), times + 1)
        log.warning("gateway_judge_failed", film=film.id, code=error.code, attempts=attempts)
        if attempts >= retry.attempts:
            persist(lambda: self._finish(film, "failed", error.code, attempts), self._stopping)
            return
        next_at = 0.0 if error.away else self._now() + wait_s(retry, max(attempts, 1), error.retry_after_s)
        values = {"attempts": attempts, "next_at": next_at, "code": error.code}
        persist(lambda: self._write(film, values), self._stopping)

    def _finish(self, film: Film, state: str, code: str | None = None, attempts: int = 0) -> None:
        values: dict[str, Any] = {"state": state, "code": code, "attempts": attempts}
        self._write(film, values if state == "failed" else values | {"content": None})

    def _write(self, film: Film, values: dict[str, Any]) -> None:
        with self._store.write() as connection:
            self._set(connection, film, values)

    def _set(self, connection: Connection, film: Film, values: dict[str, Any]) -> None:
        connection.execute(
            update(films)
            .where(films.c.id == film.id, films.c.state == "selected", films.c.content == film.content)
            .values(changed_at=self._now(), **values)
        )
        if values.get("content", film.content) is None:
            drop_unused(connection, film.content)
