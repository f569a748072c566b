"""A flipped bit anywhere in the database file: verify fails, or every row of every table is unchanged."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.domain import Role
from app.records import Records, verify
from app.records.tables import metadata
from app.settings import Settings
from tests.records.samples import DIGEST, REF, event, prediction

FLIPS = 500


def rows_of(file: Path) -> dict[str, list[tuple[Any, ...]]] | None:
    """Every row of every table as bytes and numbers, in the order of the file; None when it cannot be read."""
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            connection.text_factory = bytes
            names = (*metadata.tables, "alembic_version")
            return {name: sorted(connection.execute(f"SELECT * FROM {name} NOT INDEXED"), key=repr) for name in names}
    except sqlite3.Error:
        return None


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def fill(state: Path) -> Settings:
    settings = Settings(state_dir=state)
    records = Records.open(settings, role="serve")
    for i in range(40):
        records.record_now(event(i), prediction=prediction(i))
    records.keys.create(Role.ADMIN, "a")
    records.keys.revoke(records.keys.list()[0].id)
    records.history.write_outcome("activated", REF, DIGEST, who="start", request=None)
    records.close()
    return settings


@pytest.mark.slow
def test_flips_in_the_database_file(tmp_path: Path) -> None:
    settings = fill(tmp_path / "state")
    file = settings.state_dir / "cxr.sqlite3"
    original, kept = rows_of(file), tmp_path / "kept"
    shutil.copy(file, kept)
    assert original is not None
    chance = random.Random(20261120)
    noticed = 0
    for _ in range(FLIPS):
        for leftover in settings.state_dir.glob("cxr.sqlite3-*"):
            leftover.unlink()
        shutil.copy(kept, file)
        bit = chance.randrange(8 * file.stat().st_size)
        flip(file, bit)
        ok = verify(settings).ok
        noticed += not ok
        assert not ok or rows_of(file) == original, f"bit {bit} changed a row unnoticed"
    print(f"{noticed} of {FLIPS} flips noticed in {kept.stat().st_size} bytes, the others changed no row")
    assert noticed > FLIPS / 4  # else the file was mostly air, and nothing was tested
    shutil.copy(kept, file)
    assert verify(settings).ok


def test_flips_in_the_write_ahead_log(tmp_path: Path) -> None:
    """A damaged log loses its tail when it is read; the anchors know what stood there."""
    records = Records.open(Settings(state_dir=tmp_path / "state"), role="serve")
    for i in range(4):
        records.record_now(event(i), prediction=prediction(i))
    shutil.copytree(tmp_path / "state", tmp_path / "image")  # as after a crash: the log is not yet in the database
    records.close()
    log = (tmp_path / "image" / "cxr.sqlite3-wal").read_bytes()
    assert len(log) > 50_000
    chance = random.Random(7)
    noticed = 0
    for i in range(40):
        state = tmp_path / f"flip{i}"
        shutil.copytree(tmp_path / "image", state, ignore=shutil.ignore_patterns("*-shm"))
        flip(state / "cxr.sqlite3-wal", chance.randrange(8 * len(log)))
        report = verify(Settings(state_dir=state))
        noticed += not report.ok
        if report.ok:
            assert report.predictions == 4
        shutil.rmtree(state)
    assert noticed > 20
