"""The predictions of a span of time, as arrays, for drift."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from app.records.chain import timestamp
from app.records.events import PROJECTION_LENGTH
from app.records.tables import STATISTICS, predictions

WINDOW_MAX: Final = 20_000
_CHUNK: Final = 250  # rows decoded at a time: a longer stretch would hold up the event loop
_NUMBERS: Final = (*STATISTICS, "confidence")


@dataclass(frozen=True)
class PredictionWindow:
    """What was judged in [since, until), oldest first; the fields that `drift` wants, under its names.

    n: predictions here; truncated: there were more than the limit, and these are the newest.
    statistics: float64 [n] for each of mean, std, aspect, dark_fraction, bright_fraction, sharpness (units: `InputStatistics`) and
    confidence (NaN for multilabel). labels: films by predicted class (multilabel: by positive class). projections: float32 [n, 16].
    """

    since: datetime
    until: datetime
    n: int
    truncated: bool
    statistics: Mapping[str, NDArray[np.float64]]
    labels: Mapping[str, int]
    projections: NDArray[np.float32]


def read_window(
    reader: Engine, since: datetime, until: datetime, *, digest: str | None = None, limit: int = WINDOW_MAX
) -> PredictionWindow:
    """Read the newest predictions of a span, at most `limit`, of one bundle (by digest) or of all."""
    table = predictions.c
    columns = [table[f"stat_{name}"] for name in STATISTICS]
    span = [table.at >= timestamp(since), table.at < timestamp(until)]
    if digest is not None:
        span.append(table.bundle_digest == digest)
    query = (
        select(*columns, table.confidence, table.task, table.label, table.positive, table.projection)
        .where(*span)
        .order_by(table.at.desc(), table.chain_id.desc(), table.seq.desc())
        .limit(limit + 1)
    )
    numbers, projections = [np.empty((0, len(_NUMBERS)))], [np.empty((0, PROJECTION_LENGTH), np.float32)]
    labels: Counter[str] = Counter()
    n = 0
    with reader.connect() as connection:
        for chunk in connection.execution_options(yield_per=_CHUNK).execute(query).partitions():
            rows = chunk[: limit - n]
            n, found = n + len(rows), n + len(chunk)
            if rows:
                numbers.append(np.array([row[: len(_NUMBERS)] for row in rows], dtype=np.float64))  # None becomes NaN
                projections.append(np.array(_json([row.projection for row in rows]), dtype=np.float32))
                labels.update(_labels(rows))
    values = np.concatenate(numbers)[::-1]
    return PredictionWindow(
        since=since,
        until=until,
        n=n,
        truncated=n == limit and found > limit,
        statistics={name: values[:, i].copy() for i, name in enumerate(_NUMBERS)},
        labels=dict(labels),
        projections=np.concatenate(projections)[::-1].copy(),
    )


def _labels(rows: Sequence[Any]) -> Counter[str]:
    counts: Counter[str] = Counter(row.label for row in rows if row.task != "multilabel")
    for names in _json([row.positive for row in rows if row.task == "multilabel"]):
        counts.update(names)
    return counts


def _json(texts: Sequence[str]) -> list[Any]:
    return list(json.loads(f"[{','.join(texts)}]"))
