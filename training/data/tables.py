"""Label tables, CSV or Parquet: one row per film, names of findings in one column or one column for each."""

from __future__ import annotations

import csv
import importlib
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from app.errors import ConfigurationError
from app.imaging.dicom.attributes import OLDEST_YEARS, age_years
from app.imaging.dicom.words import VIEWS
from training.data.films import Film
from training.data.labels import HEALTHY, Record, plain_name
from training.data.spec import Columns, DataPart, TableSource

Row = Mapping[str, str]
_VALUES = {"1": 1, "0": 0, "-1": -1, "1.0": 1, "0.0": 0, "-1.0": -1, "true": 1, "false": 0, "": None, "nan": None}
_DELIMITERS = (",", ";", "\t")  # a spreadsheet writes the one of its country
_UNCERTAIN = {"ignore": -1, "negative": 0, "positive": 1}
ADULT_YEARS = 18.0


class Labelled(Protocol):
    """What reading labels needs to know of a source: `TableSource` and `DicomSource` both say it."""

    @property
    def folder(self) -> str: ...
    @property
    def labels(self) -> dict[str, str]: ...
    @property
    def columns(self) -> Columns: ...
    @property
    def separator(self) -> str: ...
    @property
    def uncertain(self) -> str: ...
    @property
    def blank_is_negative(self) -> bool: ...


def table_records(source: TableSource, root: Path, part: DataPart | None = None) -> Iterator[Record]:
    """The rows in path order. A table lies below the source's folder. A bare file name stands for the one film of that name anywhere below
    it: NIH's table names no folder, and its films come in twelve. part: whose classes must be readable where they have columns.

    Raises ConfigurationError where the table, a column or a film is missing.
    """
    rows = read_table(root / source.folder / source.table, source.columns)
    names = names_of(rows, source, part)
    paths = _found([_path(row[source.columns.path], source.folder) for row in rows], source.folder, root)
    lost = [path for path in paths if not (root / path).is_file()]
    if lost:
        raise ConfigurationError(
            "data_missing",
            f"{source.table} of {source.folder} names {len(lost)} films that are not there, such as {lost[0]}",
        )
    by_column = source.columns.findings is None
    for path, row, said in sorted(zip(paths, rows, names, strict=True), key=lambda entry: entry[0]):
        yield Record(_film(source, path, row), said, by_column)


def read_table(path: Path, columns: Columns) -> list[dict[str, str]]:
    """The rows as text, blank where there is no value. Raises ConfigurationError without the table or one of the columns."""
    if not path.is_file():
        raise ConfigurationError("data_missing", f"no label table {path.name} in {path.parent}")
    wanted = [name for name in columns.model_dump().values() if name is not None]
    rows = _parquet(path) if path.suffix.lower() in {".parquet", ".pq"} else csv_rows(path, wanted)
    missing = [name for name in wanted if rows and name not in rows[0]]
    if missing or not rows:
        there = ", ".join(rows[0]) if rows else "no row"
        raise ConfigurationError("unknown_column", f"{path.name} has no column {missing}; there are: {there}")
    return rows


def names_of(rows: Sequence[Row], source: Labelled, part: DataPart | None = None) -> list[dict[str, int]]:
    """What each row says: upstream name -> 1, 0, -1. Names of the whole table that a row does not mention are absent, if
    `blank_is_negative`, else not known.

    Without `labels`, columns of other values than 1, 0, -1 and blank are no labels, unless they are called as a class of `part`.

    Raises ConfigurationError for a label column that is not there or has other values than 1, 0, -1 and blank.
    """
    if source.columns.findings is not None:
        found = [
            {name.strip(): 1 for name in row[source.columns.findings].split(source.separator) if name.strip()}
            for row in rows
        ]
        every = dict.fromkeys((name for names in found for name in names), 0) if source.blank_is_negative else {}
        return [every | names for names in found]
    columns = _label_columns(rows[0], source)
    sure = [name for name in columns if name in source.labels or plain_name(name) in _called(part)]
    kept = [name for name in columns if name in sure or all(_known(row[name]) for row in rows)]
    return [_by_column(row, kept, source) for row in rows]


def _called(part: DataPart | None) -> set[str]:
    """Plain names that a column of the recipe's classes may have."""
    classes = set(part.classes) if part else set[str]()
    return classes | HEALTHY if classes & HEALTHY else classes


def _label_columns(row: Row, source: Labelled) -> list[str]:
    if not source.labels:
        return [name for name in row if name not in source.columns.model_dump().values()]
    missing = sorted(set(source.labels) - set(row))
    if missing:
        raise ConfigurationError("unknown_column", f"{source.folder}: no column {missing}; there are: {', '.join(row)}")
    return list(source.labels)


def _known(value: str) -> bool:
    return value.strip().lower() in _VALUES


def _by_column(row: Row, columns: Sequence[str], source: Labelled) -> dict[str, int]:
    names = {}
    for name in columns:
        if not _known(row[name]):
            raise ConfigurationError(
                "unknown_label",
                f"{source.folder}: column {name!r} holds {row[name]!r}, which is none of 1, 0, -1 and blank",
            )
        value = _VALUES[row[name].strip().lower()]
        if value is None and not source.blank_is_negative:
            continue
        names[name] = _UNCERTAIN[source.uncertain] if value == -1 else value or 0
    return names


def _film(source: TableSource, path: str, row: Row) -> Film:
    columns = source.columns
    patient, age = _value(row, columns.patient), age_of(_value(row, columns.age))
    return Film(
        path=path,
        folder=source.folder,
        upstream_split=_value(row, columns.split).lower(),
        label="",
        patient=f"{source.folder}:{patient}" if patient else "",
        licence=source.origin.licence if source.origin else "",
        age_group=age_group(age),
        view=view_of(_value(row, columns.view)),
        sex=sex_of(_value(row, columns.sex)),
        age_years=age,
        side=source.side,
        facts=tuple(sorted((name, value) for name, value in row.items() if name not in columns.model_dump().values())),
    )


def _value(row: Row, column: str | None) -> str:
    return row[column].strip() if column is not None else ""


def _path(text: str, folder: str) -> str:
    """Relative to the data folder. Raises ConfigurationError for a path that leads out of the source."""
    path = PurePosixPath(text.strip().replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ConfigurationError("unknown_path", f"{folder}: {text!r} is not a path below the source's folder")
    return (PurePosixPath(folder) / path).as_posix()


def _found(paths: Sequence[str], folder: str, root: Path) -> list[str]:
    """The paths; where a bare file name is not in the folder itself, the one film of that name below it, if there is exactly one."""
    bare = {path for path in paths if path == f"{folder}/{PurePosixPath(path).name}" and not (root / path).is_file()}
    if not bare:
        return list(paths)
    places = defaultdict[str, list[str]](list)
    for path in (root / folder).rglob("*"):
        places[f"{folder}/{path.name}"].append(path.relative_to(root).as_posix())
    return [places[path][0] if path in bare and len(places[path]) == 1 else path for path in paths]


def age_of(text: str) -> float | None:
    """Years: a plain number, or an age as DICOM writes it (`058Y`, `018M`); None for what is neither or beyond 0..130."""
    text = text.strip().upper()
    try:
        years = float(text)
    except ValueError:
        return age_years(text, "", "")
    return years if 0 <= years <= OLDEST_YEARS else None


def age_group(years: float | None) -> str:
    if years is None:
        return "unknown"
    return "adult" if years >= ADULT_YEARS else "paediatric"


def sex_of(text: str) -> str:
    """M or F, "" for anything else."""
    letter = text.strip()[:1].upper()
    return letter if letter in {"M", "F"} else ""


def view_of(text: str) -> str:
    """As DICOM writes it where it is known, else as it stands."""
    word = " ".join(text.split()).upper()
    return VIEWS.get(word, word)


def csv_rows(path: Path, wanted: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file in UTF-8, with or without a byte order mark; blank rows are passed over.

    Fields are parted by comma, semicolon or tab: the first of them that gives the header all `wanted` columns.

    Raises ConfigurationError: `unreadable_table` for another encoding, a column that stands twice, or a row with more fields than the
    header (a comma in a text without quotes moves all that follow).
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            "unreadable_table", f"{path.name} is not in UTF-8 (byte {error.start}): save it as 'CSV UTF-8'"
        ) from error
    headers = {mark: next(csv.reader(io.StringIO(text, newline=""), delimiter=mark), []) for mark in _DELIMITERS}
    fitting = [mark for mark, names in headers.items() if set(wanted) <= set(names)]
    mark = fitting[0] if fitting else max(_DELIMITERS, key=lambda one: len(headers[one]))
    twice = sorted({name for name in headers[mark] if name and headers[mark].count(name) > 1})
    if twice:
        raise ConfigurationError("unreadable_table", f"{path.name}: columns {twice} stand twice")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark)
    rows = []
    for row in reader:
        if any(row.get(None, ())):  # where the reader keeps what is too many
            raise ConfigurationError(
                "unreadable_table",
                f"{path.name}, line {reader.line_num}: more fields than columns; is a text with {mark!r} not quoted?",
            )
        if any(value for name, value in row.items() if name):
            rows.append({name: value or "" for name, value in row.items() if name})
    return rows


def _parquet(path: Path) -> list[dict[str, str]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")  # only Parquet tables need it
    except ImportError as error:
        raise ConfigurationError(
            "package_missing",
            f"{path.name}: reading Parquet needs the package pyarrow (pip install pyarrow), or a CSV table",
        ) from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except (ValueError, OSError) as error:  # pyarrow's own errors are ValueErrors
        raise ConfigurationError("unreadable_table", f"{path.name} is no Parquet table: {error}") from error
    return [{k: _text(v) for k, v in row.items()} for row in rows]


def _text(value: Any) -> str:
    """Numbers that are whole are written so: 58.0 -> 58, True -> 1."""
    if value is None or value != value:  # noqa: PLR0124  not a number
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
