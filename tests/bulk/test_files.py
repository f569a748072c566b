"""Films as files: what of a folder is listed, what of a table, and what a file that cannot be read costs."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.bulk.files import FileReader, FolderSource, TableSource
from app.bulk.films import FilmError, FilmName, Source
from app.errors import BulkError, RequestError

NAMES = {"b.dcm": b"b", "a/2": b"a2", "a/10": b"a10", "a/z/x.jpg": b"x", "ä.png": b"umlaut"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "films"
    for name, content in NAMES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def paths(source: Source) -> list[bytes]:
    return [name.path for name in source.names(threading.Event())]


def test_a_folder_is_every_file_below_it_in_the_order_of_bytes(folder: Path) -> None:
    assert paths(FolderSource(folder)) == [b"a/10", b"a/2", b"a/z/x.jpg", b"b.dcm", "ä.png".encode()]
    assert paths(FolderSource(folder, match="*.[dj]*")) == [b"a/z/x.jpg", b"b.dcm"]


def test_hidden_files_links_in_a_ring_and_the_results_themselves_are_left_out(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"")
    (folder / ".cache").mkdir()
    (folder / ".cache/film.dcm").write_bytes(b"")
    (folder / "a/ring").symlink_to(folder)
    os.mkfifo(folder / "a/pipe")
    out = folder / "a/results.parquet"
    out.write_bytes(b"")
    parts = folder / "a/results.parquet.parts"
    parts.mkdir()
    (parts / "plan.parquet").write_bytes(b"")
    assert len(paths(FolderSource(folder, without=out))) == len(NAMES)
    assert len(paths(FolderSource(folder))) == len(NAMES) + 2


def test_a_link_that_leads_nowhere_is_a_film_that_cannot_be_read(folder: Path) -> None:
    (folder / "gone").symlink_to("nowhere")
    assert b"gone" in paths(FolderSource(folder))


def test_a_name_that_is_no_utf_8_is_read_and_shown(tmp_path: Path) -> None:
    raw = b"M\xfcller.dcm"
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + raw)).write_bytes(b"film")
    source = FolderSource(tmp_path)
    (name,) = source.names(threading.Event())
    assert (name.path, name.shown) == (raw, r"M\xfcller.dcm")
    assert source.reader(100, threading.Event()).read(name) == b"film"


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_fewer_films(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def denied(path: bytes) -> object:
        if path.endswith(b"/a/z"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(BulkError, match=r"source_unreadable: .*a/z: Permission denied"):
        paths(FolderSource(folder))
    with pytest.raises(BulkError, match="source_not_found"):
        FolderSource(folder / "nowhere").identity()


def test_tables_give_their_column_as_it_stands(tmp_path: Path) -> None:
    csv, parquet = tmp_path / "list", tmp_path / "list2"  # what they are is told by their content
    csv.write_text('\ufefffile,note\na.jpg,"x, y"\n"b, c.dcm",\n/abs/ü.png,z\na.jpg,again\n', encoding="utf-8")
    wanted = [b"a.jpg", b"b, c.dcm", "/abs/ü.png".encode(), b"a.jpg"]
    pq.write_table(pa.table({"file": [os.fsdecode(w) for w in wanted], "n": [1, 2, 3, 4]}), parquet)
    assert paths(TableSource(csv, "file", tmp_path)) == wanted
    assert paths(TableSource(parquet, "file", tmp_path)) == wanted


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name\na\n", r"needs one column 'path' \(--column names another\); it has: name"),
        (b"path,path\na,b\n", "needs one column"),
        (b"", "it has: none"),
        (b"path\n", "has no rows"),
        (b"path,n\na,1\n,2\n", "row 2 has no path"),
        (b"n,path\n1,a\n2\n", "row 2 has no path"),
        (b"path\n\xff\xfe\n", "no sound CSV"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "cxr predict"),
        (b"PAR1 and no more", "no sound Parquet"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(content)
    with pytest.raises(BulkError, match=said) as caught:
        paths(TableSource(table, "path", tmp_path))
    assert caught.value.code == "bad_table"


def test_a_parquet_column_must_hold_text_in_every_row(tmp_path: Path) -> None:
    table = tmp_path / "t"
    pq.write_table(pa.table({"path": [1, 2]}), table)
    with pytest.raises(BulkError, match="does not hold text"):
        paths(TableSource(table, "path", tmp_path))
    pq.write_table(pa.table({"path": ["a", None]}), table)
    with pytest.raises(BulkError, match="row 2 has no path"):
        paths(TableSource(table, "path", tmp_path))


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view()], ids=str)
def test_text_in_another_layout_of_arrow_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    """Polars and newer pandas write these."""
    table = tmp_path / "t"
    pq.write_table(pa.table({"path": pa.array(["a.jpg", "ü.png"]).cast(kind)}), table)
    assert pq.read_schema(table).field("path").type == kind
    assert paths(TableSource(table, "path", tmp_path)) == [b"a.jpg", "ü.png".encode()]


def test_another_content_is_another_table(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path\na\n")
    before = TableSource(table, "path", tmp_path).identity()
    table.write_text("path\nb\n")
    assert TableSource(table, "path", tmp_path).identity() != before


def test_a_file_that_cannot_be_read_is_that_files_matter(folder: Path) -> None:
    reader = FileReader(folder, 3)
    assert reader.read(FilmName(b"a/10")) == b"a10"
    assert reader.read(FilmName(os.fsencode(folder / "b.dcm"))) == b"b"
    with pytest.raises(FilmError) as caught:
        reader.read(FilmName(b"nowhere/film.jpg"))
    assert (caught.value.code, caught.value.message) == (
        "unreadable_file",
        "The file cannot be read: No such file or directory.",
    )
    os.mkfifo(folder / "pipe")
    for name in (b"a", b"pipe", b"a\x00b"):
        with pytest.raises(FilmError):
            reader.read(FilmName(name))
    (folder / "large").write_bytes(b"1234")
    with pytest.raises(RequestError, match="payload_too_large"):
        reader.read(FilmName(b"large"))


def test_a_folder_that_is_gone_is_not_a_million_unreadable_files(folder: Path) -> None:
    reader = FolderSource(folder).reader(100, threading.Event())
    shutil.rmtree(folder)
    with pytest.raises(BulkError, match="source_gone"):
        reader.read(FilmName(b"b.dcm"))
