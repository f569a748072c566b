"""The plan of a run: every film of the source once, in one order, as a Parquet file that is written before the first film is judged.

So the number of films is known, a run that goes on needs neither to list the source again nor to trust that it lists the same, and
what is done is one byte a film. Memory: 16 bytes a film while planning (some 60 for a moment, to find doubles), 1 while judging.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from app.bulk.films import Film, FilmName

SCHEMA: Final = pa.schema(
    [
        pa.field("film", pa.int64(), nullable=False),
        pa.field("path", pa.binary(), nullable=False),
        pa.field("study_uid", pa.string(), nullable=False),
        pa.field("series_uid", pa.string(), nullable=False),
        pa.field("sop_instance_uid", pa.string(), nullable=False),
    ]
)
BATCH: Final = 10_000


def distinct(names: Iterable[FilmName]) -> tuple[NDArray[np.bool_], int]:
    """Which of the names come for the first time: bool [N], and how many they are."""
    digests = bytearray()
    for name in names:
        digests += hashlib.blake2b(name.identity, digest_size=16).digest()
    halves = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: of equal ones the first comes first
    first = np.ones(len(order), np.bool_)
    first[order[1:][(halves[order[1:]] == halves[order[:-1]]).all(axis=1)]] = False
    return first, int(first.sum())


def write_plan(names: Iterable[FilmName], path: Path, stop: threading.Event) -> int:
    """Write the plan; doubles are dropped. Returns the number of films.

    The names are gone through once: they are written as they come, and once more without the doubles where there were any.
    """
    raw = path.with_name(f"{path.name}.raw")
    first, films = distinct(_tee(names, raw))
    if stop.is_set() or films == len(first):
        raw.replace(path)
        return films
    kept = (name for film in read_plan(raw) if first[film.place] for name in (film.name,))
    for _ in _tee(kept, path):
        pass
    raw.unlink()
    return films


def read_plan(path: Path, done: NDArray[np.bool_] | None = None) -> Iterator[Film]:
    """The films in the plan's order, without those that are done."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH, use_threads=False):
            columns = [column.to_pylist() for column in batch.columns]
            for place, *name in zip(*columns, strict=True):
                if done is None or not done[place]:
                    yield Film(place, FilmName(*name))


def _tee(names: Iterable[FilmName], path: Path) -> Iterator[FilmName]:
    """The names, written to a file as they pass."""
    place, waiting = 0, list[FilmName]()
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for name in names:
            waiting.append(name)
            yield name
            if len(waiting) == BATCH:
                writer.write_table(_table(place, waiting))
                place, waiting = place + len(waiting), []
        writer.write_table(_table(place, waiting))


def _table(place: int, names: list[FilmName]) -> pa.Table:
    columns = [
        pa.array(range(place, place + len(names)), pa.int64()),
        pa.array([name.path for name in names], pa.binary()),
        pa.array([name.study_uid for name in names], pa.string()),
        pa.array([name.series_uid for name in names], pa.string()),
        pa.array([name.instance_uid for name in names], pa.string()),
    ]
    return pa.table(columns, schema=SCHEMA)
