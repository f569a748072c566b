"""An answer that was given was recorded: order of fsync and answer, kill -9 under load, a store that is away."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest

from benchmarks.server import Server, ask, serving, start
from tests.support.tracing import needs_strace, traced


def _predict_until_it_dies(server: Server, key: str, film: bytes, answered: list[str], stop: threading.Event) -> None:
    with (
        contextlib.closing(server.connection(timeout_s=20)) as connection,
        contextlib.suppress(OSError, http.client.HTTPException),
    ):
        while not stop.is_set():
            reply = ask(connection, "POST", "/predict", key=key, body=film, Content_Type="image/jpeg")
            if reply.status == 200:
                answered.append(reply.json()["request_id"])


def _load(server: Server, key: str, film: bytes, clients: int, seconds: float) -> list[str]:
    """Request ids of the 200s that `clients` received in that time."""
    answered: list[str] = []
    stop = threading.Event()
    threads = [
        threading.Thread(target=_predict_until_it_dies, args=(server, key, film, answered, stop))
        for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return answered


def test_kill_9_under_load_loses_no_answer(bundles_dir: Path, film: bytes, tmp_path: Path) -> None:
    server = start(tmp_path / "state", bundles_dir=bundles_dir, rate_limit_per_minute=1_000_000)
    key = server.key("service")
    answered: list[str] = []
    stop = threading.Event()
    threads = [
        threading.Thread(target=_predict_until_it_dies, args=(server, key, film, answered, stop)) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    time.sleep(2.5)
    server.stop(signal.SIGKILL)
    for thread in threads:
        thread.join()
    with contextlib.closing(sqlite3.connect(server.state / "cxr.sqlite3")) as db:
        rows = {row[0] for row in db.execute("SELECT request_id FROM predictions")}
    print(f"kill -9: {len(answered)} answers received, {len(rows)} rows")
    assert len(answered) > 50
    assert set(answered) <= rows
    assert server.cxr("audit", "verify").returncode == 0
    again = start(tmp_path / "state", bundles_dir=bundles_dir)
    assert again.stop() == 0


@needs_strace
def test_no_answer_leaves_before_the_fdatasync_that_follows_its_insert(
    bundles_dir: Path, film: bytes, tmp_path: Path
) -> None:
    with serving(tmp_path / "state", bundles_dir=bundles_dir, rate_limit_per_minute=1_000_000) as server:
        key = server.key("service")
        trace = tmp_path / "trace"
        with traced(server.process.pid, "pwrite64,write,writev,sendto,sendmsg,fdatasync,fsync", trace):
            answered = _load(server, key, film, clients=16, seconds=4)
    lines = trace.read_text(errors="replace").splitlines()
    inserted: dict[str, int] = {}
    sent: dict[str, int] = {}
    syncs: list[int] = []
    for number, line in enumerate(lines):
        if re.search(r"f(?:data)?sync\(.*\) = 0|<\.\.\. f(?:data)?sync resumed>.* = 0", line):
            syncs.append(number)
        elif "pwrite64(" in line and "cxr.sqlite3-wal" in line:
            for found in re.findall(r"[0-9a-f]{32}", line):
                inserted.setdefault(found, number)
        elif "HTTP/1.1 200" in line and (match := re.search(r"x-request-id: ([0-9a-f]{32})", line, re.IGNORECASE)):
            sent.setdefault(match[1], number)
    checked = [request_id for request_id in answered if request_id in inserted and request_id in sent]
    print(f"strace: {len(answered)} answers, {len(checked)} with both ends traced, {len(syncs)} syncs")
    assert len(checked) >= 30
    for request_id in checked:
        assert any(inserted[request_id] < sync < sent[request_id] for sync in syncs), request_id
    assert len(syncs) < len(answered)


def test_a_locked_database_gives_503_and_no_answer_then_recovers(
    bundles_dir: Path, film: bytes, tmp_path: Path
) -> None:
    with serving(tmp_path / "state", bundles_dir=bundles_dir, audit_wait_s=1) as server:
        key = server.key("service")
        assert server.request("POST", "/predict", key=key, body=film, Content_Type="image/jpeg").status == 200
        with contextlib.closing(sqlite3.connect(server.state / "cxr.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            reply = server.request("POST", "/predict", key=key, body=film, Content_Type="image/jpeg")
            assert (reply.status, reply.json()["code"]) == (503, "audit_unavailable")
            assert "retry-after" in reply.headers
            assert b"probability" not in reply.body
            other.execute("ROLLBACK")
        _wait_for_answer(server, key, film)
        assert server.cxr("audit", "verify").returncode == 0


def test_a_full_disk_gives_503_and_no_answer_then_recovers(bundles_dir: Path, film: bytes, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(state)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("cannot mount a small tmpfs here (needs root)")
    try:
        with serving(state, bundles_dir=bundles_dir, audit_wait_s=2) as server:
            key = server.key("service")
            assert server.request("POST", "/predict", key=key, body=film, Content_Type="image/jpeg").status == 200
            with contextlib.suppress(OSError), (state / "ballast").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(b"\0" * 4096)
            statuses = [
                server.request("POST", "/predict", key=key, body=film, Content_Type="image/jpeg") for _ in range(40)
            ]
            assert statuses[-1].status == 503
            assert statuses[-1].json()["code"] in {"audit_unavailable", "not_ready"}
            assert server.request("GET", "/health/ready").status == 503
            assert server.request("GET", "/health/live").status == 200
            (state / "ballast").unlink()
            _wait_for_answer(server, key, film)
            assert server.cxr("audit", "verify").returncode == 0
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def _wait_for_answer(server: Server, key: str, film: bytes, limit_s: float = 20) -> None:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if server.request("POST", "/predict", key=key, body=film, Content_Type="image/jpeg").status == 200:
            return
        time.sleep(0.2)
    pytest.fail(f"no answer within {limit_s} s after the store was back:\n{server.log()[-2000:]}")
