"""An audit trail of many synthetic predictions, written fast: a whole chain that `cxr audit verify` finds sound.

Rows are made from templates of real events, so that each is as large as a real one; request ids, hashes, pseudonyms and times differ.
One film every `STEP_S` seconds, the newest a moment ago. Syncs are off while they are written: nobody needs them after a power cut.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import Table

from app.domain import InputStatistics
from app.records import AuditEvent, KeyRing, PredictionRecord, Records
from app.records.chain import GENESIS, Event, canonical, sha256_hex, timestamp
from app.records.events import FilmSource, prepare
from app.records.tables import audit_events, audit_payloads, film_sources, predictions
from app.settings import Settings

STEP_S: Final = 3.456  # 25,000 films a day
FILMS_PER_PATIENT: Final = 4
PATIENT: Final = "synthetic-{}"
_CHUNK: Final = 5_000
_TEMPLATES: Final = 64
_BYTES_EACH: Final = 4_500  # of a row with its payload and indices, rounded up; what the disk must have


@dataclass
class Trail:
    """A database that grows. rows: synthetic predictions in it so far."""

    settings: Settings
    digest: str
    rows: int = 0
    chain_id: str = ""
    seq: int = -1
    mac: str = GENESIS

    @property
    def path(self) -> Path:
        return self.settings.state_dir / "cxr.sqlite3"

    def grow(self, rows: int) -> None:
        """Add predictions until there are so many.

        Raises:
            OSError: the disk has no room for them.
        """
        if not self.path.exists():
            Records.open(self.settings, role="cli").close()
        _require_room(self.path, rows - self.rows)
        ring = KeyRing.open(self.settings.secrets_path / "keyring.json", create=False)
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("PRAGMA cache_size=-262144")
            self._write(connection, ring, rows)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.close()

    def _write(self, connection: sqlite3.Connection, ring: KeyRing, rows: int) -> None:
        templates = list(_templates(self.digest))
        begin = datetime.now(UTC) - timedelta(seconds=STEP_S * (rows - self.rows))
        while self.rows < rows:
            count = min(_CHUNK, rows - self.rows)
            made = _Rows()
            for _ in range(count):
                if not self.chain_id:
                    self._start_chain(made, ring, begin)
                at = begin + timedelta(seconds=STEP_S)
                begin = at
                self._add(made, ring, timestamp(at), templates[self.rows % _TEMPLATES])
            made.insert(connection)

    def _start_chain(self, made: _Rows, ring: KeyRing, at: datetime) -> None:
        self.chain_id = secrets.token_hex(8)
        self._event(made, ring, timestamp(at), "chain_started", None, '{"heads":{},"role":"cli"}')

    def _event(self, made: _Rows, ring: KeyRing, at: str, kind: str, key_id: str | None, payload: str) -> None:
        self.seq += 1
        digest = sha256_hex(payload.encode("ascii"))
        event = Event(self.chain_id, self.seq, at, kind, digest, key_id, self.mac)
        self.mac = str(ring.mac("audit_mac", event.mac_input(ring.current("audit_mac"))))
        made.events.append(event.row(self.mac))
        made.payloads.append({"chain_id": self.chain_id, "seq": self.seq, "payload": payload})

    def _add(self, made: _Rows, ring: KeyRing, at: str, template: _Template) -> None:
        words = {
            "request": f"{self.rows:032x}",
            "image": sha256_hex(str(self.rows).encode()),
            "patient": ring.pseudonym(f"patient\0\0{PATIENT.format(self.rows // FILMS_PER_PATIENT)}"),
            "study": ring.pseudonym(f"study\0{self.rows // 2}"),
            "instance": ring.pseudonym(f"instance\0{self.rows}"),
        }
        payload = template.payload
        for name, word in words.items():
            payload = payload.replace(_mark(name), word)
        self._event(made, ring, at, "predict", template.key_id, payload)
        place = {"chain_id": self.chain_id, "seq": self.seq, "at": at}
        made.predictions.append(
            {
                **template.prediction,
                **place,
                "key_id": template.key_id,
                "request_id": words["request"],
                "image_sha256": words["image"],
            }
        )
        made.sources.append({**place, **{name: words[name] for name in ("patient", "study", "instance")}})
        self.rows += 1


class _Rows:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.payloads: list[dict[str, Any]] = []
        self.predictions: list[dict[str, Any]] = []
        self.sources: list[dict[str, Any]] = []

    def insert(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for table, rows in (
            (audit_events, self.events),
            (audit_payloads, self.payloads),
            (predictions, self.predictions),
            (film_sources, self.sources),
        ):
            connection.executemany(_statement(table), rows)
        connection.execute("COMMIT")


def _statement(table: Table) -> str:
    names = [column.name for column in table.columns]
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)})"


@dataclass(frozen=True)
class _Template:
    """payload: canonical JSON with marks in place of what differs; prediction: the row's own columns."""

    key_id: str
    payload: str
    prediction: dict[str, Any]


def _mark(name: str) -> str:
    return f"<{name}>"


def _templates(digest: str) -> Iterator[_Template]:
    rng = np.random.default_rng(0)
    for _ in range(_TEMPLATES):
        margin = float(rng.normal(0, 2))
        probability = float(1 / (1 + np.exp(-margin)))
        record = PredictionRecord(
            request_id=_mark("request"),
            key_id="aaaaaaaa",
            bundle_name="bench-identity",
            bundle_version="1.0.0",
            bundle_digest=digest,
            engine="onnxruntime 1.0",
            precision="fp32",
            image_sha256=_mark("image"),
            image_format="dicom",
            statistics=InputStatistics(
                float(rng.normal(110, 15)),
                float(rng.normal(60, 8)),
                1.0,
                0.2,
                0.05,
                float(rng.normal(9, 2)),
                1024,
                1024,
            ),
            task="binary",
            label="pneumonia" if margin >= 0 else "normal",
            positive=("pneumonia",) if margin >= 0 else (),
            confidence=max(probability, 1 - probability),
            probabilities={"pneumonia": probability, "normal": 1 - probability},
            margins={"pneumonia": margin, "normal": -margin},
            operating_point="screening",
            review_reasons=(),
            warnings=("intended_use_unverified",),
            projection=tuple(float(np.float32(value)) for value in rng.normal(0, 1, 16)),
            latency_ms=20.0,
        )
        source = FilmSource(patient=_mark("patient"), study=_mark("study"), instance=_mark("instance"))
        draft = prepare(AuditEvent("predict", "aaaaaaaa", {"request_id": _mark("request")}), record, source=source)
        rows = {table.name: row for table, row in draft.rows}
        assert canonical(json.loads(draft.payload)).decode() == draft.payload
        yield _Template("aaaaaaaa", draft.payload, rows[predictions.name])


def _require_room(path: Path, rows: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if rows * _BYTES_EACH > free * 0.8:
        raise OSError(f"{rows:,} rows need about {rows * _BYTES_EACH / 1e9:.0f} GB, {path.parent} has {free / 1e9:.0f}")
