"""One row a film: the columns of the results file, and how an answer, a refusal or a failure fills them.

Format 1. A change of names, types or meaning raises `FORMAT` and adds a line here; a run of another format is not continued.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa

from app.bulk.films import Film
from app.domain import Judgement
from app.errors import CxrError

FORMAT: Final = 1
Row = Mapping[str, Any]
Status = Literal["ok", "refused", "failed"]

_NAMES: Final = (
    ("film", pa.int64()),
    ("path", pa.string()),
    ("path_bytes", pa.binary()),
    ("study_uid", pa.string()),
    ("series_uid", pa.string()),
    ("sop_instance_uid", pa.string()),
)
_OUTCOME: Final = (("status", pa.string()), ("code", pa.string()), ("message", pa.string()))
_FILM: Final = (("sha256", pa.string()), ("format", pa.string()), ("width", pa.int32()), ("height", pa.int32()))
_BY: Final = tuple(
    (name, pa.string())
    for name in (
        "bundle_name",
        "bundle_version",
        "bundle_digest",
        "engine",
        "engine_version",
        "precision",
        "operating_point",
    )
)
_DECISION: Final = (
    ("label", pa.string()),
    ("positive", pa.list_(pa.string())),
    ("prediction_set", pa.list_(pa.string())),
    ("confidence", pa.float64()),
    ("review_required", pa.bool_()),
    ("review_reasons", pa.list_(pa.string())),
    ("warnings", pa.list_(pa.string())),
)
_CLASS: Final = (
    ("probability", pa.float64()),
    ("logit", pa.float64()),
    ("margin", pa.float64()),
    ("threshold_margin", pa.float64()),
    ("positive", pa.bool_()),
)


@dataclass(frozen=True)
class Judge:
    """Who judges every film of a run: bundle, engine, operating point, and the bundle's classes in its order."""

    bundle_name: str
    bundle_version: str
    bundle_digest: str
    engine: str
    engine_version: str
    precision: str
    operating_point: str
    classes: tuple[str, ...]

    def named(self) -> dict[str, str]:
        """Without the classes: the columns that are the same in every row."""
        return {name: str(getattr(self, name)) for name, _ in _BY}


def schema(classes: tuple[str, ...]) -> pa.Schema:
    """The columns. Each class has five: `<class>_probability` and so on; all are empty unless `status` is ok."""
    of_classes = [(f"{name}_{what}", kind) for name in classes for what, kind in _CLASS]
    columns = [*_NAMES, *_OUTCOME, *_FILM, *_BY, *_DECISION, *of_classes]
    return pa.schema([pa.field(name, kind, nullable=name not in {"film", "status"}) for name, kind in columns])


def judged(film: Film, judge: Judge, judgement: Judgement) -> Row:
    """The row of an answer."""
    decision, seen = judgement.decision, judgement.radiograph
    row = _row(film, judge, "ok") | {
        "sha256": seen.sha256,
        "format": seen.format,
        "width": seen.width,
        "height": seen.height,
        "label": decision.label,
        "positive": list(decision.positive),
        "prediction_set": None if decision.prediction_set is None else list(decision.prediction_set),
        "confidence": decision.confidence,
        "review_required": decision.review_required,
        "review_reasons": [str(reason) for reason in decision.review_reasons],
        "warnings": [notice.code for notice in judgement.notices],
    }
    for score in decision.classes:
        row |= {f"{score.name}_{what}": getattr(score, what) for what, _ in _CLASS}
    return row


def refused(film: Film, judge: Judge, error: CxrError, sha256: str | None) -> Row:
    """The row of a film that must not be judged, or is none; code and message are those of the service."""
    return _row(film, judge, "refused") | {"sha256": sha256, "code": error.code, "message": error.detail}


def failed(film: Film, judge: Judge, code: str, message: str, sha256: str | None = None) -> Row:
    """The row of a film of which nothing is known: another try may succeed (`--retry-failed`)."""
    return _row(film, judge, "failed") | {"sha256": sha256, "code": code, "message": message}


def _row(film: Film, judge: Judge, status: Status) -> dict[str, Any]:
    name = film.name
    shown = name.shown
    return {
        "film": film.place,
        "path": shown or None,
        "path_bytes": name.path if shown.encode() != name.path else None,
        "study_uid": name.study_uid or None,
        "series_uid": name.series_uid or None,
        "sop_instance_uid": name.instance_uid or None,
        "status": status,
    } | judge.named()
