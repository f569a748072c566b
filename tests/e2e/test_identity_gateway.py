"""Nobody is named by the gateway either: not in its log, metrics, commands or database, whatever happens to a film on its way.

Films in which everything names somebody come by C-STORE and STOW-RS, are judged by the real service, and their results are delivered,
fail, die and are replayed, with the gateway killed in between. What has to lie on disk meanwhile lies there sealed.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from app.errors import RecordsError
from app.gateway.multipart import build_related
from app.records.keyring import KeyRing
from benchmarks.server import Server, serving
from tests.e2e.test_pacs import wait_for
from tests.support.canaries import DIGITS, KANJI, LATIN, WORD, canaries_in, canaries_in_files, canaries_of_process
from tests.support.canary_films import ROOT, CanaryFilm, canary_dataset, good_films, identifiers_of, other_films
from tests.support.dicom_films import as_bytes
from tests.support.gateway_peers import MllpPeer, StorePeer, StowPeer, WebhookPeer
from tests.support.gateway_process import TITLE, TOKEN, GatewayProcess, gateway
from tests.support.processes import children
from tests.support.tiny_bundle import make_tiny_bundle

SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
IDENTIFIERS = identifiers_of(*range(1, 7), *range(11, 36), 51)

pytestmark = pytest.mark.skipif(
    shutil.which("storescu") is None,
    reason="dcmtk is not here (tests/system-packages.sh): no film can be sent by C-STORE",
)


class Archive(StowPeer):
    """Keeps the objects themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: list[bytes] = []

    def keep(self, name: str, content: bytes) -> None:
        super().keep(name, content)
        self.objects.append(content)


class Listener(MllpPeer):
    """Keeps the messages themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[bytes] = []

    def keep(self, name: str, content: bytes) -> None:
        super().keep(name, content)
        self.messages.append(content)


class Hook(WebhookPeer):
    """Takes any message when it is well."""

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self.mode == "500":
            return 503, {"Retry-After": "0"}, b""
        self.last = (headers, body)
        return 204, {}, b""


@dataclass
class World:
    """The gateway with all around it. told: what anyone but the receivers of results was told; each must name nobody."""

    service: Server
    gateway: GatewayProcess
    temporary: Path
    archive: Archive = field(default_factory=Archive)
    refusing: Archive = field(default_factory=Archive)
    pacs: StorePeer = field(default_factory=StorePeer)
    hook: Hook = field(default_factory=Hook)
    ris: Listener = field(default_factory=Listener)
    told: list[tuple[str, bytes]] = field(default_factory=list)

    def stow(self, *films: bytes, path: str = "/studies", token: str = TOKEN, **headers: str) -> int:
        """The status. The standard has the answer name the instances that were sent, by their UIDs and nothing else."""
        body, content_type = build_related(list(films), "application/dicom")
        status, heads, answer = self.http(
            "POST", path, body, **{"Authorization": f"Bearer {token}", "Content-Type": content_type, **headers}
        )
        assert not [found for found in canaries_in(answer) if not found.startswith(DIGITS)], answer
        self.told.append((f"stow {path}", heads))
        return status

    def http(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes, bytes]:
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.gateway.http_port, timeout=30)
        ) as connection:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, str(response.getheaders()).encode(), response.read()

    def storescu(self, film: bytes, folder: Path, *options: str, caller: str = "MODALITY") -> int:
        path = folder / "film.dcm"
        path.write_bytes(film)
        command = [
            "storescu",
            *options,
            "-aet",
            caller,
            "-aec",
            TITLE,
            "127.0.0.1",
            str(self.gateway.dicom_port),
            str(path),
        ]
        return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return list(database.execute(query))

    @property
    def database(self) -> Path:
        return self.gateway.state / "gateway.sqlite3"

    def states(self, table: str) -> Counter[str]:
        return Counter(dict(self.rows(f"SELECT state, count(*) FROM {table} GROUP BY state")))

    def look_around(self) -> None:
        """Pages and commands of the gateway."""
        for path in ("/metrics", "/health", f"/{WORD}", f"/studies/{ROOT}.1.1/{WORD}"):
            _, heads, page = self.http("GET", path, Authorization=f"Bearer {TOKEN}")
            self.told.append((path, heads + page))
        for command in ("status", "dead", "check-config"):
            done = self.gateway.cxr(command)
            assert done.returncode == 0, done.stderr
            self.told.append((command, (done.stdout + done.stderr).encode()))

    def named(self) -> dict[str, list[str]]:
        """Where anybody is named: files and processes of gateway and service, and what they told."""
        found: dict[str, list[str]] = {}
        for root in (self.gateway.folder, self.service.state, self.temporary):
            found |= canaries_in_files(root, IDENTIFIERS)
        running = [self.service.process.pid, *children(self.service.process.pid)]
        if self.gateway.process is not None:
            running.append(self.gateway.process.pid)
        for pid in running:
            found |= canaries_of_process(pid)
        return found | {name: said for name, content in self.told if (said := canaries_in(content, IDENTIFIERS))}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    bundles, temporary, folder = tmp_path / "bundles", tmp_path / "temporary", tmp_path / "gateway"
    make_tiny_bundle(bundles, gate={}, latest=True)
    temporary.mkdir()
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    (folder / "secret").write_text(SECRET)
    with serving(tmp_path / "service", bundles_dir=bundles, log_level="debug") as service:
        made = World(service, GatewayProcess(folder, 0, 0), temporary)
        peers = (made.archive, made.refusing, made.pacs, made.hook, made.ris)
        destinations: list[dict[str, Any]] = [
            {"name": "archive", "kind": "stow", "objects": ["sr", "sc"], "url": f"{made.archive.url}/studies"},
            {"name": "refusing", "kind": "stow", "objects": ["pdf_dicom"], "url": f"{made.refusing.url}/studies"},
            {
                "name": "pacs",
                "kind": "store",
                "objects": ["sr"],
                "host": "127.0.0.1",
                "port": made.pacs.port,
                "ae": "PEER",
            },
            {"name": "hook", "kind": "webhook", "url": f"{made.hook.url}/hook", "secret_file": str(folder / "secret")},
            {"name": "ris", "kind": "oru", "host": "127.0.0.1", "port": made.ris.port},
        ]
        try:
            with gateway(
                folder,
                service_port=service.port,
                service_key=service.key("service"),
                destinations=destinations,
                peers=["MODALITY"],
            ) as process:
                made.gateway = process
                yield made
        finally:
            for peer in peers:
                peer.close()


def test_nobody_is_named_whatever_happens_to_a_film(world: World, tmp_path: Path) -> None:
    good, others = list(good_films()), list(other_films())
    world.gateway.start()
    world.hook.set("500")
    world.refusing.set("4xx")
    _arrive(world, good, others, tmp_path)
    wait_for(lambda: not {"received", "selected"} & set(world.states("films")))
    wait_for(lambda: world.states("deliveries")["dead"] == len(judged(world)))
    wait_for(lambda: world.hook.tries >= 2)
    # archive twice, pacs, hook, ris: none answers well
    assert world.states("deliveries")["pending"] == 5 * len(judged(world))
    world.look_around()
    assert world.named() == {}

    _killed_with_a_film_in_hand(world)

    for peer in (world.archive, world.pacs, world.hook, world.ris):
        peer.set("ok")
    world.gateway.start()
    wait_for(lambda: world.states("deliveries")["pending"] == 0)
    dead = world.gateway.cxr("dead").stdout
    assert len(dead.splitlines()) == len(judged(world)) > len(good)
    world.look_around()
    assert world.named() == {}

    world.refusing.set("ok")
    replayed = world.gateway.cxr("replay", "--all")
    assert replayed.returncode == 0
    wait_for(lambda: set(world.states("deliveries")) == {"delivered"})
    world.look_around()
    assert world.rows("SELECT count(*) FROM contents") == [(0,)]
    assert world.gateway.stop() == 0
    print(
        f"films {dict(world.states('films'))}, deliveries {dict(world.states('deliveries'))}, {len(world.told)} pages and answers"
    )
    assert world.named() == {}
    assert list(world.temporary.iterdir()) == []
    _receivers_know_the_patient(world)
    with (world.gateway.folder / "gateway.log").open("a") as log:  # the control
        log.write(f"film of {LATIN}\n")
    assert set(world.named()) == {str(world.gateway.folder / "gateway.log")}


def judged(world: World) -> list[tuple[Any, ...]]:
    return world.rows("SELECT instance FROM judgements WHERE code IS NULL")


def _arrive(world: World, good: list[CanaryFilm], others: list[CanaryFilm], folder: Path) -> None:
    """By every door, with words where a sender can put some."""
    assert world.storescu(good[0].data, folder) == 0
    assert world.storescu(good[1].data, folder) == 0
    assert world.storescu(good[2].data, folder) == 0
    assert world.storescu(good[3].data, folder, "-xi") == 0
    assert world.storescu(good[5].data, folder, "-xv") == 0
    assert world.storescu(good[4].data, folder, caller=WORD) != 0
    assert world.stow(good[4].data, path=f"/studies/{ROOT}.5.1") == 200
    assert world.stow(good[4].data, path=f"/studies/{ROOT}.1.1") == 409
    statuses = Counter(world.stow(film.data) for film in others)
    assert set(statuses) == {200, 409}
    assert world.stow(*(film.data for film in others), good[0].data) == 202
    assert world.stow(good[0].data, path=f"/studies/{WORD}") == 404
    assert world.stow(good[0].data, token=WORD) == 401
    assert world.stow(good[0].data, Cookie=WORD, Referer=f"{WORD}/{ROOT}") == 200
    assert world.stow(WORD.encode() * 99, **{"Content-Type": f"multipart/related; boundary={WORD}"}) == 400
    for port in (world.gateway.http_port, world.gateway.dicom_port):  # neither HTTP nor DICOM
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            raw.sendall(b"\x01\x00\x00\x00\x00\x44" + f"{WORD} {LATIN} {ROOT}".encode() + b"\r\n\r\n")
            raw.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                world.told.append((f"garbage to port {port}", raw.recv(65_536)))
    print(f"STOW of {len(others)} odd films: {dict(statuses)}")


def _killed_with_a_film_in_hand(world: World) -> None:
    """Acknowledged, and killed in its quiet time: the film itself lies in the database. It opens with the key ring and not without."""
    film = as_bytes(canary_dataset(51))
    assert world.stow(film) == 200
    assert world.gateway.stop(signal.SIGKILL) == -signal.SIGKILL
    assert world.named() == {}
    blobs = world.rows("SELECT label, sealed FROM contents ORDER BY size DESC")
    films = [(str(label), bytes(sealed)) for label, sealed in blobs if str(label).startswith("film/")]
    ring = KeyRing.open(world.gateway.state / "secrets" / "keyring.json", create=False)
    opened = [ring.unseal(sealed, label.encode()) for label, sealed in films]
    assert film in opened
    label, sealed = films[opened.index(film)]
    another = KeyRing.open(world.temporary.parent / "another" / "keyring.json", create=True)
    flipped = sealed[:-40] + bytes([sealed[-40] ^ 1]) + sealed[-39:]
    for keys, blob, context in ((another, sealed, label), (ring, sealed, "film/elsewhere"), (ring, flipped, label)):
        with pytest.raises(RecordsError) as refused:
            keys.unseal(blob, context.encode())
        assert refused.value.code == "sealed_blob_damaged"
        assert canaries_in(str(refused.value).encode()) == []
    results = [ring.unseal(bytes(b), str(name).encode()) for name, b in blobs if not str(name).startswith("film/")]
    assert len(results) >= 4
    assert all(canaries_in(result) for result in results)
    facts = world.rows("SELECT facts, sha256 FROM films")
    assert all(
        DIGITS.encode() in ring.unseal(bytes(sealed_facts), f"facts/{sha256}".encode())
        for sealed_facts, sha256 in facts
    )


def _receivers_know_the_patient(world: World) -> None:
    """The results name whom they are about, to those who asked for them."""
    known = {str(dcmread(io.BytesIO(content)).PatientID) for content in world.archive.objects}
    assert known >= {f"{WORD}-4711-{seed}" for seed in (*range(1, 7), 51)}
    assert {str(dcmread(io.BytesIO(c)).PatientName).split("^")[0] for c in world.archive.objects} >= {
        f"{KANJI}1",
        f"{LATIN}2",
    }
    assert len(world.refusing.objects) == len(judged(world))
    assert all(WORD.encode() in message for message in world.ris.messages)
    heads, body = world.hook.last
    assert WORD.encode() in body
    assert canaries_in(str(heads).encode(), IDENTIFIERS) == []
