"""Nobody is named anywhere but in the objects that go back into the patient's own record.

Films in which everything names somebody (`canary_films`) go through every route, judged, refused and damaged, with more such words in
headers, addresses and file names. Then everything the service said, logged, stored or shows of itself is searched.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import socket
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom import dcmread

from app.errors import ERROR_TABLE
from app.gateway.multipart import parse_related
from benchmarks.server import Reply, Server, serving
from tests.support.canaries import (
    DIGITS,
    KANJI,
    LATIN,
    STEMS,
    WORD,
    canaries_in,
    canaries_in_files,
    canaries_of_process,
    disguises,
)
from tests.support.canary_films import ROOT, CanaryFilm, good_films, identifiers_of, other_films, pictures
from tests.support.postgres import running_postgres
from tests.support.processes import children
from tests.support.tiny_bundle import make_tiny_bundle

DICOM = "application/dicom"
OBJECTS = ("sr", "sc", "pdf_dicom", "pdf", "fhir", "oru")
FORMS = {DICOM: "sr", "application/pdf": "pdf", "application/fhir+json": "fhir", "x-application/hl7-v2+er7": "oru"}
SEEDS = (*range(1, 7), *range(11, 36))
IN_HEADER = f"{WORD} {LATIN}".encode("latin-1").decode("latin-1")


@dataclass
class Said:
    """What a client was told. silent: where nobody may be named: (request, headers and body); carried: film, kind and object."""

    silent: list[tuple[str, bytes]] = field(default_factory=list)
    carried: list[tuple[CanaryFilm, str, bytes]] = field(default_factory=list)

    def hear(self, request: str, reply: Reply, *, body: bool = True) -> Reply:
        """Headers always; the body unless it is an object that is meant to name the patient."""
        heads = "\n".join(f"{name}: {value}" for name, value in reply.headers.items()).encode()
        self.silent.append((request, heads + (b"\n\n" + reply.body if body else b"")))
        return reply

    def named(self) -> dict[str, list[str]]:
        """Requests whose answers name somebody."""
        wanted = identifiers_of(*SEEDS)
        return {request: found for request, told in self.silent if (found := canaries_in(told, wanted))}


@dataclass(frozen=True)
class Client:
    """Sends films and remembers all that was answered."""

    server: Server
    key: str
    said: Said

    def send(self, path: str, film: CanaryFilm, accept: str = "*/*", **headers: str) -> Reply:
        reply = self.server.request(
            "POST", path, key=self.key, body=film.data, **{"Content_Type": DICOM, "Accept": accept, **headers}
        )
        carrying = reply.status == 200 and (path.startswith("/reports") or accept in FORMS)
        return self.said.hear(f"{path} {accept} {film.name}", reply, body=not carrying)

    def send_form(self, path: str, part: str, *films: CanaryFilm) -> Reply:
        """Each file under a name that names somebody."""
        head = f'--b0undary\r\nContent-Disposition: form-data; name="{part}"; filename="{WORD} {LATIN} {KANJI} {ROOT}.dcm"\r\n'
        head += f"Content-Type: application/dicom; name={WORD}\r\nX-Note: {WORD}\r\n\r\n"
        body = b"".join(head.encode() + film.data + b"\r\n" for film in films) + b"--b0undary--\r\n"
        content_type = f"multipart/form-data; boundary=b0undary; note={WORD}"
        reply = self.server.request("POST", path, key=self.key, body=body, Content_Type=content_type)
        return self.said.hear(f"{path} form of {len(films)}", reply)


@pytest.fixture(scope="module")
def gated_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle whose gate takes phantoms of frontal chests of children."""
    root = tmp_path_factory.mktemp("gated")
    make_tiny_bundle(root, gate={}, latest=True)
    return root


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[tuple[str | None, Path | None]]:
    """URL and data folder; none for SQLite in the state folder."""
    if request.param == "sqlite":
        yield None, None
        return
    with running_postgres() as postgres:
        url = postgres.new_database()
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            folder = Path(str(connection.exec_driver_sql("SHOW data_directory").scalar_one()))
        yield url, folder


def test_nobody_is_named_anywhere_but_in_the_objects(
    gated_dir: Path, database: tuple[str | None, Path | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, data = database
    state, temporary = tmp_path / "state", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    settings: dict[str, Any] = {"bundles_dir": gated_dir, "log_level": "debug", "rate_limit_per_minute": 1_000_000}
    places = [state, temporary, *([data] if data else [])]
    if url:
        settings["database_url"] = url
    with serving(state, **settings) as server:
        client = Client(server, server.key("service"), Said())
        begun = time.perf_counter()
        _films(client)
        _requests(client)
        _look_around(client)
        pids = (server.process.pid, *children(server.process.pid))
        assert len(pids) >= 2
        of_processes = [found for pid in pids if (found := canaries_of_process(pid))]
        while_running = _in_files(places)
        assert server.cxr("audit", "verify").returncode == 0
    said = client.said
    print(
        f"{len(said.silent)} answers and {len(said.carried)} objects in {time.perf_counter() - begun:.0f} s; searched "
        f"{sum(p.stat().st_size for place in places for p in place.rglob('*') if p.is_file()) / 1e6:.1f} MB of files"
    )
    assert said.named() == {}
    assert of_processes == []
    assert while_running == {}
    assert _in_files(places) == {}
    assert list(temporary.iterdir()) == []
    _objects_name_their_patient(said)
    _a_planted_word_is_found(places, state, url)


def _films(client: Client) -> None:
    """Every film by every route."""
    good, others = list(good_films()), list(other_films())
    for film in good:
        for accept in ("application/json", *FORMS):
            reply = client.send("/predict?explain=true" if accept == "application/json" else "/predict", film, accept)
            assert reply.status == 200, (film.name, accept, reply.body)
            if accept in FORMS:
                client.said.carried.append((film, FORMS[accept], reply.body))
        for accept in ("image/png", "image/jpeg", "application/json"):
            assert client.send("/gradcam", film, accept).status == 200
        overlay = client.send("/gradcam", film, DICOM)
        client.said.carried.append((film, "sc", overlay.body))
        reply = client.send(f"/reports?objects={','.join(OBJECTS)}", film)
        assert reply.status == 200, reply.body
        for kind, part in zip(OBJECTS, parse_related(reply.body, reply.headers["content-type"]), strict=True):
            client.said.carried.append((film, kind, part.content))
        state = client.send("/reports?objects=gsps", film)
        if state.status == 200:
            (part,) = parse_related(state.body, state.headers["content-type"])
            client.said.carried.append((film, "gsps", part.content))
        else:
            assert (state.status, state.json()["code"]) == (409, "explanation_unavailable")
    for film in others:
        reply = client.send("/predict", film)
        code = "answered" if reply.status == 200 else reply.json()["code"]
        assert (reply.status, code) == (film.status, film.code), film.name
        assert client.send("/gradcam", film).status == film.status
        for kind in OBJECTS:
            assert client.send(f"/reports?objects={kind}", film).status in {film.status, 422}
    for start in range(0, len(others), 8):
        films = [*others[start : start + 8], good[0]]
        results = client.send_form("/batch_predict", "files", *films).json()["results"]
        assert [r["problem"]["code"] if r["problem"] else "answered" for r in results] == [f.code for f in films]
    assert client.send_form("/predict", "file", good[0]).status == 200
    for content_type, data in pictures().items():
        reply = client.server.request("POST", "/predict", key=client.key, body=data, Content_Type=content_type)
        client.said.hear(content_type, reply)


def _requests(client: Client) -> None:
    """Words in every part of a request that a client writes."""
    film, server, hear = next(good_films()), client.server, client.said.hear
    twice = [client.send("/predict", film, Idempotency_Key=f"{WORD}-{DIGITS}").json() for _ in range(2)]
    assert twice[0]["request_id"] == twice[1]["request_id"]
    statuses = {
        "reused": client.send("/gradcam", film, Idempotency_Key=f"{WORD}-{DIGITS}").status,
        "key": client.send("/predict", film, Idempotency_Key=IN_HEADER).status,
        "request id": client.send("/predict", film, X_Request_ID=IN_HEADER).status,
        "request id of digits": client.send("/predict", film, X_Request_ID=f"{ROOT}.1.1").status,
        "point": client.send(f"/predict?operating_point={WORD}", film).status,
        "target": client.send(f"/gradcam?target={WORD}&operating_point={DIGITS}", film).status,
        "objects": client.send(f"/reports?objects={WORD},sr", film).status,
        "parameter": client.send(f"/predict?{WORD}={DIGITS}", film).status,
        "number": client.send(f"/gradcam?alpha={WORD}", film).status,
        "accept": client.send("/gradcam", film, f"image/{WORD}").status,
        "type": client.send("/predict", film, Content_Type=f"image/{WORD}").status,
        "part": client.send_form("/predict", WORD, film).status,
        "path": hear("path", server.request("GET", f"/studies/{ROOT}/{WORD}", key=client.key)).status,
        "path of a route": hear("path", server.request("POST", f"/predict/{WORD}", key=client.key)).status,
        "static": hear("static", server.request("GET", f"/static/{WORD}.js")).status,
        "method": hear("method", server.request(WORD, "/predict", key=client.key)).status,
        "api key": hear("api key", server.request("GET", "/metrics", key=f"cxr_{WORD}_{DIGITS}")).status,
        "bearer": hear("bearer", server.request("GET", "/metrics", Authorization=f"Bearer {WORD}")).status,
        "others": client.send("/predict", film, Cookie=WORD, Referer=f"http://{WORD}/", User_Agent=IN_HEADER).status,
        "forwarded": client.send("/predict", film, X_Forwarded_For=WORD, Origin=f"http://{WORD}", Host=WORD).status,
    }
    assert statuses == {
        "reused": 422, "key": 400, "request id": 200, "request id of digits": 200, "point": 400, "target": 400, "objects": 400,
        "parameter": 400, "number": 400, "accept": 406, "type": 415, "part": 400, "path": 404, "path of a route": 404, "static": 404,
        "method": 400, "api key": 401, "bearer": 401, "others": 200, "forwarded": 200,
    }  # fmt: skip
    for line in (
        f"{WORD} / HTTP/1.1",
        f"GET /{WORD} HTTP/9.9",
        f"GET /?{LATIN}={KANJI} HTTP/1.1\r\n{WORD}",
        f"{WORD}\0" * 9,
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
            raw.sendall(line.encode() + b"\r\nHost: " + WORD.encode() + b"\r\n\r\n")
            raw.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                client.said.silent.append((repr(line), raw.recv(65_536)))


def _look_around(client: Client) -> None:
    """Pages about the service, and the commands."""
    admin = client.server.key("admin")
    for path in ("/metrics", "/openapi.json", "/docs", "/", "/health", "/health/ready", "/drift_report"):
        reply = client.said.hear(path, client.server.request("GET", path, key=admin))
        assert reply.status == 200, path
    for film in (next(good_films()), next(iter(other_films()))):
        file = client.server.state.parent / "film.dcm"
        file.write_bytes(film.data)
        done = client.server.cxr("predict", str(file), check=False)
        file.unlink()
        assert (done.returncode == 0) == (film.status == 200)
        client.said.silent.append((f"cxr predict {film.name}", (done.stdout + done.stderr).encode()))
    found = client.server.cxr("audit", "find", "--study", f"{ROOT}.1.1").stdout
    assert found.strip()  # who has the key ring can find a study
    client.said.silent.append(("cxr audit find", found.encode()))


def _in_files(places: list[Path]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for place in places:
        found |= canaries_in_files(place, identifiers_of(*SEEDS))
    return found


def _objects_name_their_patient(said: Said) -> None:
    """The same words are where they belong; else the search above would prove nothing."""
    assert {kind for _, kind, _ in said.carried} >= set(OBJECTS)
    for film, kind, content in said.carried:
        source = dcmread(io.BytesIO(film.data))
        wanted = (source.PatientID, source.AccessionNumber)
        if kind in {"sr", "sc", "gsps", "pdf_dicom"}:
            made = dcmread(io.BytesIO(content))
            for name in (
                "PatientName",
                "PatientID",
                "PatientBirthDate",
                "StudyInstanceUID",
                "AccessionNumber",
                "StudyDate",
            ):
                assert made[name].value == source[name].value, (film.name, kind, name)
            assert canaries_in(content)
            continue
        text = _page(content) if kind == "pdf" else content.decode()
        assert all(str(value) in text for value in wanted), (film.name, kind)
        if kind != "pdf":
            assert str(source.StudyInstanceUID) in text
            assert str(source.PatientName).split("^")[0] in text


def _page(content: bytes) -> str:
    """The drawing commands of a PDF of ours; its font subsets keep the codes of ASCII."""
    found = re.findall(rb"<<([^>]*)>>\s*stream\r?\n(.*?)endstream", content, re.DOTALL)
    drawn = [stream for head, stream in found if b"ASCII85Decode" in head and b"FlateDecode" in head]
    pages = [zlib.decompress(base64.a85decode(b"<~" + stream.strip(), adobe=True)) for stream in drawn]
    return b"\n".join(pages).decode("latin-1")


def _a_planted_word_is_found(places: list[Path], state: Path, url: str | None) -> None:
    """The control: in the very places that were searched."""
    with (state / "server.log").open("a") as log:
        log.write(json.dumps({"event": "film", "patient": f"{KANJI}^A"}) + "\n")
    if url is None:
        with contextlib.closing(sqlite3.connect(state / "cxr.sqlite3")) as connection, connection:
            connection.execute("CREATE TABLE planted (text)")
            connection.execute("INSERT INTO planted VALUES (?)", [f"{ROOT}.1.1"])
        row = "cxr.sqlite3"
    else:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.begin() as begun:
            begun.exec_driver_sql("CREATE TABLE planted (text text)")
            begun.exec_driver_sql(f"INSERT INTO planted VALUES ('{ROOT}.1.1')")
        row = "pg_wal"
    found = _in_files(places)
    assert f"{KANJI} as json" in found[str(state / "server.log")]
    assert any(f"{DIGITS} as utf-8" in said for path, said in found.items() if row in path)


@pytest.mark.parametrize("stem", STEMS)
def test_the_search_finds_a_word_in_every_disguise(stem: str, tmp_path: Path) -> None:
    """Alone, in a line of a log, in a row, and in a row that was deleted from a database that does not overwrite."""
    for number, needle in enumerate(disguises(stem)):
        assert canaries_in(b"\0before " + needle + b" after\xff"), needle
        path = tmp_path / str(number)
        path.write_bytes(b"x" * 5_000 + needle)
    assert len(canaries_in_files(tmp_path)) == len(disguises(stem)) >= 20
    with contextlib.closing(sqlite3.connect(tmp_path / "rows.sqlite3")) as connection, connection:
        connection.execute("CREATE TABLE rows (text)")
        connection.execute("INSERT INTO rows VALUES (?)", [f"a {stem} b"])
    assert canaries_in((tmp_path / "rows.sqlite3").read_bytes())
    assert not canaries_in(b"QZKANARY 7771828182845 1801020 18010203123 malformed_dicom")


def test_the_search_finds_a_digest_and_what_a_process_shows(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("2e8d", encoding="ascii")
    assert canaries_in_files(tmp_path, identifiers_of(1)) == {}
    digest = subprocess.run(["sha256sum"], input=f"{ROOT}.1.1".encode(), capture_output=True, check=True).stdout
    (tmp_path / "log").write_bytes(digest)
    assert canaries_in_files(tmp_path, identifiers_of(1))
    sleeping = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    for command, env in (([*sleeping, f"--patient={LATIN}"], {}), (sleeping, {"STUDY": f"{ROOT}.2"})):
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert len(canaries_of_process(process.pid)) == 1
            process.kill()


def test_every_code_that_films_were_refused_by_is_in_the_table() -> None:
    assert {film.code for film in other_films()} - {"answered"} <= set(ERROR_TABLE)
