"""`cxr score` as its users meet it: killed with -9 and started again, stopped, counted, told what is wrong."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from app.cli import score as module
from app.errors import ConfigurationError
from app.imaging.phantom import encode_jpeg, phantom
from tests.support.commands import command, cxr, cxr_in_parts, environment
from tests.support.tiny_bundle import make_tiny_bundle

FILMS = 60
LIMIT_S = 200  # the machine may be busy


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles")
    (root / "latest").write_text(f"{make_tiny_bundle(root)}\n")
    return root


@pytest.fixture
def films(tmp_path: Path) -> Path:
    root = tmp_path / "films"
    root.mkdir()
    some = [encode_jpeg(phantom(seed, height=192, width=160)) for seed in range(4)]
    for i in range(FILMS):
        (root / f"ZZCANARY-{i:03}.jpg").write_bytes(some[i % 4])
    return root


@pytest.fixture
def where(bundles: Path, tmp_path: Path) -> dict[str, Any]:
    return {"bundles_dir": bundles, "state_dir": tmp_path / "state"}


def rows_in(parts: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in parts.glob("part-*.parquet"))


def test_killed_again_and_again_it_has_every_film_once(films: Path, tmp_path: Path, where: dict[str, Any]) -> None:
    """Small parts, so that it is killed between them too; the last start is let through."""
    out, parts = tmp_path / "r.parquet", tmp_path / "r.parquet.parts"
    arguments = ["score", str(films), "--out", str(out), "--rate", "40"]
    seen = 0
    for kill in range(3):
        process = cxr_in_parts(5, *arguments, **where)
        try:
            until = time.monotonic() + LIMIT_S
            while (rows_in(parts) if parts.exists() else 0) <= seen and process.poll() is None:
                assert time.monotonic() < until
                time.sleep(0.005)
        finally:
            process.kill()
            ended = process.wait()
        assert ended == -signal.SIGKILL, f"it was over before kill {kill}"
        seen = rows_in(parts)
        assert not out.exists()
    assert 0 < seen < FILMS
    done = cxr(*arguments[:-2], **where)
    assert done.returncode == 0, done.stderr
    assert f"{FILMS} films, {seen} of them judged before" in done.stderr
    assert f"{FILMS - seen} films in" in done.stdout
    table = pq.read_table(out)
    assert table["film"].to_pylist() == list(range(FILMS))
    assert table["path"].to_pylist() == sorted(path.name for path in films.iterdir())
    assert not parts.exists()
    assert cxr("audit", "verify", **where).returncode == 0
    for path in (p for p in Path(where["state_dir"]).rglob("*") if p.is_file()):
        assert b"ZZCANARY" not in path.read_bytes(), path.name


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_it_keeps_what_it_has(
    films: Path, tmp_path: Path, where: dict[str, Any], number: signal.Signals, status: int
) -> None:
    parts = tmp_path / "r.parquet.parts"
    process = subprocess.Popen(
        command("score", str(films), "--out", str(tmp_path / "r.parquet"), "--rate", "5"),
        env=environment(**where),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + LIMIT_S
        while not (parts / "run.json").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(number)
        _, said = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == status
    assert "the same command goes on from there" in said
    assert rows_in(parts) < FILMS


def test_it_counts_without_a_trace(films: Path, tmp_path: Path, where: dict[str, Any]) -> None:
    (films / "letter.txt").write_text("no film")
    before = sorted(tmp_path.rglob("*"))
    done = cxr("score", str(films), "--out", str(tmp_path / "r.parquet"), "--dry-run", **where)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert (lines["films"], lines["jpeg"], lines["other"]) == (str(FILMS + 1), str(FILMS), "1")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_table_with_a_lost_film_ends_with_status_3(films: Path, tmp_path: Path, where: dict[str, Any]) -> None:
    table = tmp_path / "t.csv"
    table.write_text("file\nZZCANARY-000.jpg\nnowhere.jpg\nZZCANARY-000.jpg\n")
    done = cxr(
        "score", str(table), "--column", "file", "--root", str(films), "--out", str(tmp_path / "r.parquet"), **where
    )
    assert done.returncode == 3, done.stderr
    assert pq.read_table(tmp_path / "r.parquet")["status"].to_pylist() == ["ok", "failed"]


def test_what_is_wrong_is_one_line(films: Path, tmp_path: Path, where: dict[str, Any]) -> None:
    out = ("--out", str(tmp_path / "r.parquet"))
    for arguments, code in (
        ((str(tmp_path / "nowhere"), *out), "source_not_found"),
        (("https://me:pw@pacs/dicom-web", *out), "bad_source"),
        ((str(films), "--out", str(tmp_path / "no/r.parquet")), "no_such_folder"),
    ):
        done = cxr("score", *arguments, **where)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"cxr: {code}: ")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "httpx", None)
    with pytest.raises(ConfigurationError, match=r"install cxr-triage\[bulk\]; httpx is missing"):
        module._need_extra()
