"""An archive that speaks DICOMweb, with all its moods: pages, silence, overload, refusals, nonsense."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from app.bulk import dicomweb
from app.bulk.dicomweb import DicomwebSource, Login
from app.bulk.films import FilmError, FilmName
from app.errors import BulkError, RequestError
from app.gateway.multipart import build_related

NAME = FilmName(b"", "1.2.1", "1.2.1.1", "1.2.1.1.1")


@dataclass
class Archive:
    """Answers by path; `moods` are statuses that come first."""

    studies: list[str] = field(default_factory=lambda: [f"1.2.{i}" for i in range(1, 6)])
    pages: bool = True
    film: bytes = b"a film\r\n--x"
    moods: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(self, target: str) -> tuple[int, str, bytes]:
        parts = urlsplit(target)
        steps = parts.path.removeprefix("/dicom-web/studies").strip("/").split("/")
        if steps == [""]:
            query = parse_qs(parts.query)
            first, count = (int(query[key][0]) for key in ("offset", "limit"))
            found = self.studies[first : first + count] if self.pages else self.studies
            return self._json([{"0020000D": {"vr": "UI", "Value": [uid]}} for uid in found])
        if len(steps) == 2:
            series = [(f"{steps[0]}.{i}", modality) for i, modality in ((2, "CR"), (1, "DX"), (3, "SR"))]
            return self._json([{"0020000E": {"Value": [uid]}, "00080060": {"Value": [m]}} for uid, m in series])
        if len(steps) == 4:
            return self._json([{"00080018": {"Value": [f"{steps[2]}.{i}"]}} for i in (2, 1)])
        body, kind = build_related([self.film], "application/dicom")
        return 200, kind, body

    @staticmethod
    def _json(found: list[object]) -> tuple[int, str, bytes]:
        return (200 if found else 204), "application/dicom+json", json.dumps(found).encode() if found else b""


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    monkeypatch.setattr(dicomweb, "AWAY_DELAYS_S", (0.001,) * 4)
    mine = Archive()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mine.asked.append(self.path)
            mine.headers.append({key.lower(): value for key, value in self.headers.items()})
            status, kind, body = (mine.moods.pop(0), "text/plain", b"") if mine.moods else mine.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    mine.url = f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    yield mine
    server.shutdown()
    thread.join()
    server.server_close()


def source(archive: Archive, query: str = "", login: Login | None = None) -> DicomwebSource:
    return DicomwebSource.parse(archive.url + query, modalities=("CR", "DX"), login=login)


def names(archive: Archive, query: str = "") -> list[FilmName]:
    return list(source(archive, query).names(threading.Event()))


def wanted(archive: Archive) -> list[FilmName]:
    return [FilmName(b"", s, f"{s}.{e}", f"{s}.{e}.{i}") for s in archive.studies for e in (1, 2) for i in (1, 2)]


def test_all_pages_are_read_and_other_modalities_left_out(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "PAGE", 2)
    assert names(archive, "/studies?StudyDate=20260101-&ModalitiesInStudy=CR") == wanted(archive)
    pages = [asked for asked in archive.asked if "offset=" in asked]
    assert len(pages) == 4
    assert all("StudyDate=20260101-&ModalitiesInStudy=CR&limit=2" in page for page in pages)


def test_an_archive_that_knows_no_pages_is_not_asked_for_ever(archive: Archive) -> None:
    archive.pages = False
    assert names(archive) == wanted(archive)
    archive.studies = []
    assert names(archive) == []


def test_a_film_comes_whole_and_as_it_is_stored(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("secret\n")
    reader = source(archive, login=Login(tmp_path / "pw", "me")).reader(100, threading.Event())
    assert reader.read(NAME) == archive.film
    assert archive.asked == ["/dicom-web/studies/1.2.1/series/1.2.1.1/instances/1.2.1.1.1"]
    assert archive.headers[0]["authorization"] == "Basic bWU6c2VjcmV0"
    assert "transfer-syntax=*" in archive.headers[0]["accept"]
    archive.film = bytes(101)
    with pytest.raises(RequestError, match="payload_too_large"):
        reader.read(NAME)
    archive.film = bytes(200_000)
    with pytest.raises(RequestError, match="payload_too_large"):
        reader.read(NAME)
    reader.close()


def test_an_archive_that_is_away_is_waited_for_and_then_ends_the_run(archive: Archive) -> None:
    reader = source(archive).reader(100, threading.Event())
    archive.moods = [503, 429, 504]
    assert reader.read(NAME) == archive.film
    archive.moods = [503] * 10
    with pytest.raises(BulkError, match=r"archive_away: the archive is away \(status 503\)"):
        reader.read(NAME)
    archive.moods = [401]
    with pytest.raises(BulkError, match="archive_refuses"):
        reader.read(NAME)
    reader.close()
    nobody = DicomwebSource("http://127.0.0.1:9/dicom-web").reader(100, threading.Event())
    with pytest.raises(BulkError, match="unreachable"):
        nobody.read(NAME)
    nobody.close()


def test_a_film_that_the_archive_has_not_or_fails_on_is_that_films_matter(archive: Archive) -> None:
    reader = source(archive).reader(100, threading.Event())
    archive.moods = [404]
    with pytest.raises(FilmError) as caught:
        reader.read(NAME)
    assert (caught.value.code, caught.value.message) == ("not_retrieved", "The archive answered 404.")
    archive.moods = [500, 500]
    assert reader.read(NAME) == archive.film
    archive.moods = [500, 500, 500]
    with pytest.raises(FilmError, match="not_retrieved"):
        reader.read(NAME)
    reader.close()


def test_a_stop_ends_the_wait(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "AWAY_DELAYS_S", (600.0,))
    stop = threading.Event()
    reader = source(archive).reader(100, stop)
    archive.moods = [503]
    timer = threading.Timer(0.1, stop.set)
    timer.start()
    with pytest.raises(BulkError, match="stopped"):
        reader.read(NAME)
    timer.join()
    reader.close()


def test_nonsense_is_no_list_of_films(archive: Archive) -> None:
    archive.studies = ["../../secret"]
    with pytest.raises(BulkError, match="bad_answer"):
        names(archive)
    archive.moods = [400]
    with pytest.raises(BulkError, match=r"bad_answer: .* status 400"):
        names(archive)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://pacs/dicom-web", "bad_source"),
        ("https://me:secret@pacs/dicom-web", "--password-file"),
        ("https://pacs/dicom-web?limit=3", "'limit' is no matching key"),
        ("https://pacs/dicom-web?a%0ab=3", "no matching key"),
    ],
)
def test_a_bad_address_is_named_without_its_secret(text: str, said: str) -> None:
    with pytest.raises(BulkError, match=said) as caught:
        DicomwebSource.parse(text, modalities=("CR",), login=None)
    assert "secret" not in str(caught.value)


def test_a_secret_is_sent_over_https_only(tmp_path: Path) -> None:
    with pytest.raises(BulkError, match="https only"):
        DicomwebSource.parse("http://pacs/dicom-web", modalities=("CR",), login=Login(tmp_path / "t"))
    DicomwebSource.parse("https://pacs/dicom-web", modalities=("CR",), login=Login(tmp_path / "t"))
