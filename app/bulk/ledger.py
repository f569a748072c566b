"""What a run has on disk, so that it can be killed at any instant: no film stands in the results twice, and none is lost.

Beside `results.parquet`, while it is not finished, lies the folder `results.parquet.parts`:

    lock                  held by the process that works here
    plan.parquet          every film of the run (`plan.py`)
    run.json              what run this is; written after the plan: while it is not there, nothing was judged
    part-000000.parquet   rows in the order of their commits; of a film the newest row counts

A part is written under another name, synced, recorded, then renamed: one that has its name is whole. What a kill costs is the part that
was not renamed; its films are judged again. The last step merges the parts into the results file by one rename and removes the folder;
a folder that outlives that rename is known by the run's id and generation, which the results file carries.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from app.bulk.files import PARTS_SUFFIX
from app.bulk.films import Film, FilmName
from app.bulk.identity import METADATA, Run, run_of
from app.bulk.plan import read_plan, write_plan
from app.bulk.rows import Row, schema
from app.errors import BulkError

ROW_GROUP: Final = 65_536
_BATCH: Final = 8_192
_PLAN, _RUN, _LOCK = "plan.parquet", "run.json", "lock"


@dataclass(frozen=True)
class Part:
    """A part that is about to be committed. sha256: of its file."""

    number: int
    rows: int
    sha256: str


class Ledger:
    """The results file and its parts. One process at a time: `held`.

    Args:
        out: the results file; its folder must be there.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._parts = out.with_name(out.name + PARTS_SUFFIX)
        self._done = np.zeros(0, np.bool_)
        self._next = 0
        self._run: Run | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Work here, alone.

        Raises:
            BulkError: no_such_folder, in_use.
        """
        if not self.out.parent.is_dir():
            raise BulkError("no_such_folder", f"{self.out.parent} is no folder")
        self._parts.mkdir(exist_ok=True)
        with (self._parts / _LOCK).open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BulkError("in_use", f"another process writes {self.out.name}") from None
            if not (self._parts / _LOCK).exists():  # it ended between our opening and our locking
                raise BulkError("in_use", f"another process has just written {self.out.name}; run the command again")
            try:
                yield
            finally:
                if not (self._parts / _RUN).exists():
                    shutil.rmtree(self._parts)

    def found(self) -> tuple[Run | None, bool]:
        """The run that lies here, and whether it is finished.

        Raises:
            BulkError: out_exists, the file is none of ours; unknown_format.
        """
        finished = run_of(self.out)
        if finished is None and self.out.exists():
            raise BulkError(
                "out_exists", f"{self.out.name} is there and is no results file; name another, or say --overwrite"
            )
        begun = self._begun()
        if begun is not None and not (finished is not None and finished.is_or_follows(begun)):
            return begun, False
        if finished is not None and begun is not None:
            self.clear()
        return finished, finished is not None

    def clear(self) -> None:
        """Throw away an unfinished run; its description first, so that what is left if this is cut short is no run."""
        (self._parts / _RUN).unlink(missing_ok=True)
        for path in self._parts.iterdir():
            if path.name != _LOCK:
                path.unlink()

    def begin(self, run: Run, names: Iterable[FilmName], stop: threading.Event) -> Run:
        """Write the plan, then the run, which becomes this ledger's.

        Raises:
            BulkError: no_films; stopped, while the source was listed; and as `Source.names`.
        """
        self.clear()
        films = write_plan(names, self._parts / "plan.tmp", stop)
        if stop.is_set():
            raise BulkError("stopped", "the run was asked to stop before its films were listed")
        if films == 0:
            raise BulkError("no_films", "the source has no films")
        planned = replace(run, films=films)
        self._seal(self._parts / "plan.tmp", self._parts / _PLAN)
        self._write_run(planned)
        return planned

    def reopen(self, run: Run) -> Run:
        """Begin a finished run again, with all that it has as the first part."""
        self.clear()
        again = run.again()
        write_plan(_names_of(self.out, run.films), self._parts / "plan.tmp", threading.Event())
        self._seal(self._parts / "plan.tmp", self._parts / _PLAN)
        shutil.copyfile(self.out, self._parts / "part.tmp")
        self._seal(self._parts / "part.tmp", self._part(0))
        self._write_run(again)
        return again

    def resume(self, run: Run, *, retry_failed: bool) -> None:
        """Learn what is done. retry_failed: a film whose row says `failed` is not.

        Raises:
            BulkError: damaged_part.
        """
        self._run, self._next = run, 0
        self._done = np.zeros(run.films, np.bool_)
        (self._parts / "part.tmp").unlink(missing_ok=True)
        for path in self._committed():
            with _opened(path) as file:
                for batch in file.iter_batches(_BATCH, columns=["film", "status"], use_threads=False):
                    places, status = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
                    self._done[places] = (status != "failed") | (not retry_failed)
            self._next = int(path.stem.removeprefix("part-")) + 1

    @property
    def done(self) -> int:
        """Films that have their row."""
        return int(self._done.sum())

    def is_done(self, place: int) -> bool:
        return bool(self._done[place])

    def pending(self) -> Iterator[Film]:
        """The films without a row, in the plan's order, as of now."""
        return read_plan(self._parts / _PLAN, self._done.copy())

    def commit(self, rows: list[Row], record: Callable[[Part], object]) -> None:
        """Make rows durable, in one part.

        Args:
            record: called with what is about to be committed; if it fails, nothing is.
        """
        run = self._here()
        table = pa.Table.from_pylist([dict(row) for row in rows], schema(run.judge.classes))
        written = self._parts / "part.tmp"
        pq.write_table(table, written, compression="zstd")
        record(Part(self._next, len(rows), _digest(written)))
        self._seal(written, self._part(self._next))
        self._next += 1
        self._done[[row["film"] for row in rows]] = True

    def finish(self) -> str:
        """Merge the parts into the results file and remove them. Returns its SHA-256.

        Raises:
            BulkError: damaged_part; incomplete, a film has no row.
        """
        run, parts = self._here(), self._committed()
        kept = self._newest_rows(parts)
        if int(kept.sum()) != run.films:
            raise BulkError("incomplete", f"the parts hold {int(kept.sum())} of {run.films} films; say --overwrite")
        merged, at = self._parts / "merged.tmp", 0
        whole = schema(run.judge.classes).with_metadata({METADATA: run.to_json()})
        with pq.ParquetWriter(merged, whole, compression="zstd") as writer:
            waiting: list[pa.RecordBatch] = []
            for batch in _batches(parts):
                waiting.append(batch.filter(pa.array(kept[at : at + len(batch)])))
                at += len(batch)
                if sum(map(len, waiting)) >= ROW_GROUP:
                    writer.write_table(pa.Table.from_batches(waiting))
                    waiting = []
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting))
        digest = _digest(merged)
        self._seal(merged, self.out)
        self.clear()
        return digest

    def outcomes(self) -> Iterator[pa.RecordBatch]:
        """Columns status, code, label and review_required of the finished file."""
        with pq.ParquetFile(self.out) as file:
            yield from file.iter_batches(
                _BATCH, columns=["status", "code", "label", "review_required"], use_threads=False
            )

    def failed(self) -> int:
        """Films of the finished file whose row says `failed`."""
        return sum(batch.column(0).to_pylist().count("failed") for batch in self.outcomes())

    def _newest_rows(self, parts: list[Path]) -> NDArray[np.bool_]:
        """Which rows of all parts, one after the other, are the newest of their film."""
        places = [batch.column(0).to_numpy() for batch in _batches(parts, ["film"])]
        backwards = np.concatenate([*places, np.zeros(0, np.int64)])[::-1]
        kept = np.zeros(len(backwards), np.bool_)
        kept[np.unique(backwards, return_index=True)[1]] = True
        return kept[::-1]

    def _here(self) -> Run:
        if self._run is None:
            raise RuntimeError("`resume` comes first")
        return self._run

    def _begun(self) -> Run | None:
        try:
            return Run.from_json((self._parts / _RUN).read_bytes())
        except FileNotFoundError:
            return None

    def _write_run(self, run: Run) -> None:
        written = self._parts / "run.tmp"
        written.write_bytes(run.to_json())
        self._seal(written, self._parts / _RUN)

    def _committed(self) -> list[Path]:
        return sorted(self._parts.glob("part-*.parquet"))

    def _part(self, number: int) -> Path:
        return self._parts / f"part-{number:06d}.parquet"

    @staticmethod
    def _seal(written: Path, name: Path) -> None:
        """Give a file its name once its bytes are on the disk; the name is on the disk too on return."""
        with written.open("rb") as file:
            os.fsync(file.fileno())
        written.replace(name)
        folder = os.open(name.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _names_of(results: Path, films: int) -> Iterator[FilmName]:
    """The films of a finished file, in the plan's order; a stretch of it at a time, whatever order the rows are in.

    Rows were committed about in that order, so a stretch lies in few row groups, which their statistics tell; the others are not read.
    """
    columns = ["film", "path", "path_bytes", "study_uid", "series_uid", "sop_instance_uid"]
    for first in range(0, films, ROW_GROUP):
        stretch = [("film", ">=", first), ("film", "<", first + ROW_GROUP)]
        table = pq.read_table(results, columns=columns, filters=stretch, use_threads=False).sort_by("film")
        for batch in table.to_batches(max_chunksize=_BATCH):
            for _, path, raw, *uids in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield FilmName(raw if raw is not None else (path or "").encode(), *(uid or "" for uid in uids))


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise BulkError("damaged_part", f"{path.name}: {error}; remove it to have its films judged again") from None


def _batches(parts: list[Path], columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    for path in parts:
        with _opened(path) as file:
            yield from file.iter_batches(_BATCH, columns=columns, use_threads=False)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
