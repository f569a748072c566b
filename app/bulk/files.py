"""Films as files: all of a folder, or those that a table names."""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from app.bulk.films import FilmError, FilmName, file_path
from app.errors import BulkError, RequestError

PARTS_SUFFIX: Final = ".parts"  # of the folder beside a results file, while its run is not finished
_PARQUET: Final = b"PAR1"
_BATCH_ROWS: Final = 10_000
_CELL_MAX_CHARS: Final = 131_072


class FileReader:
    """Reads below a folder. root: what relative paths are relative to; when it is gone, so is the source."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root, self._max_bytes = root, max_bytes

    def read(self, name: FilmName) -> bytes:
        """Raises: as `Reader.read`."""
        try:
            # a pipe in a table would be waited for without end
            descriptor = os.open(Path(self._root, file_path(name)), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise FilmError("unreadable_file", "It is no file.")
                data = file.read(self._max_bytes + 1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in a path of a table
            if not self._root.is_dir():
                raise BulkError("source_gone", f"{self._root} is gone; run the same command again to go on") from None
            what = error.strerror if isinstance(error, OSError) else "no such path"
            raise FilmError("unreadable_file", f"The file cannot be read: {what}.") from None
        if len(data) > self._max_bytes:
            raise RequestError("payload_too_large", what="image", limit=self._max_bytes)
        return data

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class FolderSource:
    """Every file below a folder, whatever its name says of its content; names that begin with a dot are left out.

    match: a pattern that a file's name must match (`*.dcm`); folders that are links are not entered.
    without: a results file, which is left out together with its parts.
    """

    root: Path
    match: str | None = None
    without: Path | None = None
    kind: Literal["folder"] = "folder"
    readers: int = 1

    def identity(self) -> dict[str, str]:
        """Raises: as `Source.identity`."""
        if not self.root.is_dir():
            raise BulkError("source_not_found", f"{self.root} is no folder")
        return {"kind": self.kind, "folder": str(self.root.resolve()), "match": self.match or ""}

    def names(self, stop: threading.Event) -> Iterator[FilmName]:
        """Depth first, each folder's entries in the order of their bytes. Raises: as `Source.names`."""
        root = os.fsencode(self.root.resolve())
        for path in self._below(root, stop):
            yield FilmName(path=path[len(root.rstrip(b"/")) + 1 :])

    def reader(self, max_bytes: int, stop: threading.Event) -> FileReader:
        """See `Source.reader`."""
        del stop
        return FileReader(self.root.resolve(), max_bytes)

    def _below(self, folder: bytes, stop: threading.Event) -> Iterator[bytes]:
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:  # films below it would be lost without a word
            raise BulkError("source_unreadable", f"{os.fsdecode(folder)}: {error.strerror}") from None
        for entry in entries:
            if stop.is_set():
                return
            if entry.name.startswith(b".") or entry.path in self._own():
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._below(entry.path, stop)
            elif self._is_film(entry) and (
                self.match is None or fnmatch.fnmatchcase(os.fsdecode(entry.name), self.match)
            ):
                yield entry.path

    @staticmethod
    def _is_film(entry: os.DirEntry[bytes]) -> bool:
        """A link that leads nowhere counts: its film would be lost without a word."""
        return entry.is_file() or (entry.is_symlink() and not entry.is_dir())

    def _own(self) -> tuple[bytes, ...]:
        if self.without is None:
            return ()
        out = os.fsencode(self.without.resolve())
        return out, out + PARTS_SUFFIX.encode()


@dataclass(frozen=True)
class TableSource:
    """The paths in one column of a CSV file (with a header, UTF-8) or a Parquet file; its content says which of the two it is.

    root: what relative paths are relative to.
    """

    table: Path
    column: str
    root: Path
    kind: Literal["table"] = "table"
    readers: int = 1

    def identity(self) -> dict[str, str]:
        """Raises: as `Source.identity`."""
        try:
            with self.table.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BulkError("source_not_found", f"{self.table}: {error.strerror}") from None
        root = str(self.root.resolve())
        return {"kind": self.kind, "table_sha256": digest, "column": self.column, "root": root}

    def names(self, stop: threading.Event) -> Iterator[FilmName]:
        """In the table's order. Raises: as `Source.names`."""
        row = 0
        for row, cell in enumerate(self._cells(), start=1):
            if stop.is_set():
                return
            if not cell:
                raise BulkError("bad_table", f"{self.table.name}: row {row} has no path in column {self.column!r}")
            yield FilmName(path=os.fsencode(cell))
        if row == 0:
            raise BulkError("bad_table", f"{self.table.name} has no rows")

    def reader(self, max_bytes: int, stop: threading.Event) -> FileReader:
        """See `Source.reader`."""
        del stop
        return FileReader(self.root.resolve(), max_bytes)

    def _cells(self) -> Iterator[str | None]:
        with self.table.open("rb") as file:
            head = file.read(256)
        yield from self._parquet() if head.startswith(_PARQUET) else self._csv(head)

    def _parquet(self) -> Iterator[str | None]:
        try:
            with pq.ParquetFile(self.table) as file:
                self._check(file.schema_arrow.names)
                if not _is_text(file.schema_arrow.field(self.column).type):
                    raise BulkError("bad_table", f"{self.table.name}: column {self.column!r} does not hold text")
                for batch in file.iter_batches(_BATCH_ROWS, columns=[self.column], use_threads=False):
                    yield from batch.column(0).to_pylist()
        except pa.ArrowException as error:
            raise BulkError("bad_table", f"{self.table.name} is no sound Parquet file: {error}") from None

    def _csv(self, head: bytes) -> Iterator[str | None]:
        if b"\x00" in head:
            raise BulkError(
                "bad_table", f"{self.table.name} is neither CSV nor Parquet; one film is judged by `cxr predict`"
            )
        csv.field_size_limit(_CELL_MAX_CHARS)
        try:
            with self.table.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file)
                self._check(rows.fieldnames or ())
                for row in rows:
                    yield row[self.column]
        except (csv.Error, UnicodeDecodeError) as error:
            raise BulkError("bad_table", f"{self.table.name} is no sound CSV file in UTF-8: {error}") from None

    def _check(self, columns: object) -> None:
        names = [str(name) for name in columns] if isinstance(columns, list | tuple) else []
        if names.count(self.column) != 1:
            known = ", ".join(names)[:400] or "none"
            raise BulkError(
                "bad_table",
                f"{self.table.name} needs one column {self.column!r} (--column names another); it has: {known}",
            )


def _is_text(kind: pa.DataType) -> bool:
    """In any of Arrow's layouts: Polars and pandas write their own into the file's schema."""
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))
