"""A whole run: find or begin it, judge what is left, commit as it goes, finish; and what it all came to."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from app.bulk.films import Film, Source
from app.bulk.identity import Run
from app.bulk.kit import Kit, Workplace, judge_of
from app.bulk.ledger import Ledger, Part
from app.bulk.rows import Row
from app.errors import BulkError
from app.live import LiveBundle
from app.settings import Settings

PART_ROWS: Final = 1_000
PART_S: Final = 30.0  # what is older than this is committed, however little it is: what a kill -9 costs at most


@dataclass(frozen=True)
class Wish:
    """What is asked for. workers: judging threads, or actors on a cluster (None: all cores of it). rate: films per second at most.
    ray: address of a cluster, None judges here."""

    source: Source
    out: Path
    operating_point: str | None = None
    workers: int | None = None
    rate: float | None = None
    ray: str | None = None
    retry_failed: bool = False
    overwrite: bool = False


class Watcher(Protocol):
    """Hears how a run goes; called from the thread that runs it."""

    def begun(self, run: Run, done: int) -> None:
        """A run begins or goes on; `done` of its films have their row."""

    def row(self, row: Row) -> None:
        """A film has its row."""

    def audit(self, kind: str, facts: Mapping[str, Any]) -> None:
        """To be recorded before anything else happens; an error stops the run and loses nothing."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to. judged, seconds: of this call alone; the counts are of all films. finished: the results file is there.

    statuses: ok, refused, failed. codes: of films that were not judged. labels, review: of those that were.
    """

    run: Run
    finished: bool
    judged: int
    seconds: float
    statuses: Mapping[str, int] = field(default_factory=dict)
    codes: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    review: int = 0
    sha256: str | None = None

    @property
    def films_per_s(self) -> float:
        return self.judged / self.seconds if self.seconds > 0 else 0.0


def score(
    wish: Wish, live: LiveBundle, settings: Settings, *, workers: int, watcher: Watcher, stop: threading.Event
) -> Outcome:
    """Run, or go on with the run that lies there, until all films have their row or somebody asks to stop.

    Args:
        workers: judging threads on this machine.
        stop: once set, no film is begun any more; what is judged is committed.

    Raises:
        BulkError: what is wrong with source, output, cluster, or the run that lies there. What was committed stays.
    """
    by = judge_of(live, wish.operating_point)
    ledger = Ledger(wish.out)
    with ledger.held():
        run, finished = _settled(wish, live, ledger, stop)
        if finished:
            return _counted(Outcome(run, finished=True, judged=0, seconds=0.0), ledger)
        ledger.resume(run, retry_failed=wish.retry_failed)
        watcher.begun(run, ledger.done)
        watcher.audit("score_started", _facts(run) | {"done": ledger.done, "where": "ray" if wish.ray else "local"})
        kit, begun = Kit.of(wish.source, by, settings), time.monotonic()
        try:
            judged = _commit(_rows(wish, kit, live, ledger.pending(), workers=workers, stop=stop), run, ledger, watcher)
        except BulkError as error:
            watcher.audit("score_stopped", _facts(run) | {"done": ledger.done, "code": error.code})
            raise
        seconds = time.monotonic() - begun
        if ledger.done < run.films:
            watcher.audit("score_stopped", _facts(run) | {"done": ledger.done, "judged": judged})
            return Outcome(run, finished=False, judged=judged, seconds=seconds)
        sha256 = ledger.finish()
        outcome = _counted(Outcome(run, finished=True, judged=judged, seconds=seconds, sha256=sha256), ledger)
        counts = {"statuses": dict(outcome.statuses), "codes": dict(outcome.codes), "labels": dict(outcome.labels)}
        watcher.audit("score_finished", _facts(run) | counts | {"judged": judged, "results_sha256": sha256})
        return outcome


def _settled(wish: Wish, live: LiveBundle, ledger: Ledger, stop: threading.Event) -> tuple[Run, bool]:
    """The run that is to be done, on disk, and whether there is nothing to be done.

    Raises:
        BulkError: another_run, what lies there was asked for otherwise.
    """
    wanted = _wanted(wish, live)
    found, finished = (None, False) if wish.overwrite else ledger.found()
    if found is None:
        return ledger.begin(wanted, wish.source.names(stop), stop), False
    if differences := wanted.differences(found):
        state = "finished" if finished else "unfinished"
        raise BulkError(
            "another_run",
            f"{wish.out.name} is a{'n' * (not finished)} {state} run that was asked for otherwise ({'; '.join(differences)}); "
            "name another file, or say --overwrite",
        )
    if finished and wish.retry_failed and ledger.failed():
        return ledger.reopen(found), False
    return found, finished


def _wanted(wish: Wish, live: LiveBundle) -> Run:
    by, manifest = judge_of(live, wish.operating_point), live.manifest
    point = manifest.operating_point(by.operating_point)
    thresholds = {} if point is None else dict(point.thresholds or {})
    return Run(
        run_id=secrets.token_hex(8),
        generation=0,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        films=0,
        source=wish.source.identity(),
        judge=by,
        thresholds=thresholds,
        about={
            "what": "cxr score: calibrated risk scores for decision support, never autonomous diagnosis",
            "population": manifest.intended_use.population,
        },
    )


def _rows(
    wish: Wish, kit: Kit, live: LiveBundle, films: Iterator[Film], *, workers: int, stop: threading.Event
) -> Iterator[Row]:
    if wish.ray is None:
        with closing(Workplace(kit, live, workers=workers, rate=wish.rate, stop=stop)) as workplace:
            yield from workplace.rows(films)
        return
    from app.bulk.cluster import judge_on_ray  # noqa: PLC0415 - the extra

    for row in judge_on_ray(kit, live, films, address=wish.ray, workers=wish.workers, rate=wish.rate):
        if stop.is_set():
            return
        yield row


def _commit(rows: Iterator[Row], run: Run, ledger: Ledger, watcher: Watcher) -> int:
    """Commit rows as they come, and what is left when they end, however they end. Returns how many there were."""
    waiting: list[Row] = []
    judged, since = 0, time.monotonic()

    def commit() -> None:
        if waiting:
            ledger.commit(waiting, lambda part: watcher.audit("score_committed", _part_facts(run, part)))
            waiting.clear()

    try:
        for row in _until_stopped(rows):
            if not waiting:
                since = time.monotonic()
            waiting.append(row)
            judged += 1
            watcher.row(row)
            if len(waiting) >= PART_ROWS or time.monotonic() - since >= PART_S:
                commit()
    finally:
        commit()
    return judged


def _until_stopped(rows: Iterator[Row]) -> Iterator[Row]:
    """A reader that was asked to stop while it waited for an archive has no row to give; that is no fault."""
    try:
        yield from rows
    except BulkError as error:
        if error.code != "stopped":
            raise


def _counted(outcome: Outcome, ledger: Ledger) -> Outcome:
    statuses, codes, labels = Counter[str](), Counter[str](), Counter[str]()
    review = 0
    for batch in ledger.outcomes():
        columns = [column.to_pylist() for column in batch.columns]
        for status, code, label, doubt in zip(*columns, strict=True):
            statuses[status] += 1
            review += bool(doubt)
            if status == "ok":
                labels[label] += 1
            else:
                codes[code] += 1
    return replace(outcome, statuses=statuses, codes=codes, labels=labels, review=review)


def _facts(run: Run) -> dict[str, Any]:
    """What an event says of a run: nothing of the source but its kind, since paths and queries can hold names of patients."""
    facts = {"run_id": run.run_id, "generation": run.generation, "source": run.source["kind"], "films": run.films}
    return facts | run.judge.named()


def _part_facts(run: Run, part: Part) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "generation": run.generation,
        "part": part.number,
        "rows": part.rows,
        "sha256": part.sha256,
    }
