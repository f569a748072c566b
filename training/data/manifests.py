"""Folders with a `manifest.csv` in the columns of this project's data folder. Reading one opens no image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from app.errors import ConfigurationError
from training.data.films import Film
from training.data.labels import HEALTHY, Record
from training.data.spec import ManifestSource
from training.data.tables import csv_rows

MANIFEST, LABELS14 = "manifest.csv", "labels14.csv"
AGREEMENT = "label_agreement"
_RSNA, _GOOGLE = "rsna_class", "google2019_airspace_opacity"
_NEEDED = ("path", "upstream_split", "label", "patient_id", "licence", "age_group", "dup_group")
_DESCRIBED = frozenset({"path", "patient_id", "upstream_split", "label", "dup_group", "licence", "age_group"})
_NO_LABELS = frozenset({"path", "patient_id", "follow_up", "age", "sex", "view", "no_finding", _RSNA, _GOOGLE})
Row = dict[str, str]


def manifest_records(source: ManifestSource, root: Path) -> Iterator[Record]:
    """The rows in path order. Raises ConfigurationError where the manifest or one of its columns is not there, or a size or age is no
    number."""
    path = root / source.folder / MANIFEST
    if not path.is_file():
        raise ConfigurationError(
            "data_missing", f"no {source.folder}/{MANIFEST} in {root}; pass the folder with --data"
        )
    more = _labels14(root / source.folder / LABELS14)
    findings = tuple(name for name in next(iter(more.values()), {}) if name not in _NO_LABELS)
    for row in sorted(_read(path, _NEEDED), key=lambda row: row["path"]):
        extra = more.get(row["path"], {})
        facts = {name: value for name, value in row.items() if name not in _DESCRIBED} | _facts(row, extra)
        yield Record(_film(source, row, extra, facts), _names(row, extra, findings))


def _film(source: ManifestSource, row: Row, extra: Row, facts: Row) -> Film:
    return Film(
        path=row["path"],
        folder=source.folder,
        upstream_split=row["upstream_split"],
        label=row["label"],
        patient=row["patient_id"],
        duplicate_group=row["dup_group"],
        licence=row["licence"],
        age_group=row["age_group"] or "unknown",
        view=row.get("view", "") or extra.get("view", ""),
        sex=extra.get("sex", ""),
        age_years=_number(extra.get("age", ""), "age", row["path"]),
        width=int(_number(row.get("orig_width", ""), "orig_width", row["path"]) or 0),
        height=int(_number(row.get("orig_height", ""), "orig_height", row["path"]) or 0),
        side=source.side,
        facts=tuple(sorted(facts.items())),
    )


def _names(row: Row, extra: Row, findings: tuple[str, ...]) -> dict[str, int]:
    """The film's own label, and the findings that labels14.csv lists beside it."""
    return {row["label"]: 1} | {name: int(extra[name]) for name in findings if extra.get(name) in {"0", "1"}}


def _facts(row: Row, extra: Row) -> Row:
    facts = {name: value for name, value in extra.items() if name not in {"path", "patient_id"}}
    if _RSNA in extra:
        facts[AGREEMENT] = label_agreement(
            healthy=row["label"] in HEALTHY, rsna_class=extra[_RSNA], google_opacity=extra.get(_GOOGLE, "")
        )
    return facts


def label_agreement(*, healthy: bool, rsna_class: str, google_opacity: str) -> str:
    """What second readers make of an NIH label: `agreed`, `contradicted` or `unread`.

    Ill: `agreed` where the RSNA readers or the 2019 adjudication saw an opacity, `unread` where nobody looked again. Healthy: `agreed`
    where nobody saw an opacity and the RSNA class is not `No Lung Opacity / Not Normal` (most of these were not read again).
    """
    opacity = rsna_class == "Lung Opacity" or google_opacity == "YES"
    if healthy:
        return "agreed" if not opacity and rsna_class in {"", "Normal"} else "contradicted"
    if opacity:
        return "agreed"
    return "contradicted" if rsna_class or google_opacity else "unread"


def _labels14(path: Path) -> dict[str, Row]:
    return {row["path"]: row for row in _read(path, ("path",))} if path.is_file() else {}


def _read(path: Path, wanted: tuple[str, ...]) -> list[Row]:
    rows = csv_rows(path, wanted)
    missing = [name for name in wanted if rows and name not in rows[0]]
    if missing:
        raise ConfigurationError(
            "unknown_column",
            f"{path.parent.name}/{path.name} has no column {missing}; there are: {', '.join(rows[0])} (a column may be blank)",
        )
    return rows


def _number(text: str, column: str, path: str) -> float | None:
    """None where there is none."""
    try:
        return float(text) if text else None
    except ValueError as error:
        raise ConfigurationError("unreadable_table", f"{path}: {column} {text!r} is no number") from error
