"""An acknowledged record survives: kill -9, a power cut, a torn write; and no acknowledgement leaves before its fdatasync.

Each test of a promise has its positive control: the same test with `synchronous=NORMAL` planted must fail.
"""

from __future__ import annotations

import ctypes.util
import errno
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.errors import UnavailableError
from app.records import Records, verify
from app.settings import Settings
from tests.records.samples import event, prediction
from tests.records.test_writer import wait_until

ACK = re.compile(r"(request-\d{6}) ([0-9a-f]{16}) (\d+)")


class Child:
    """The acknowledging child, and what it has acknowledged so far."""

    def __init__(self, state: Path, concurrency: int, *options: str, prefix: tuple[str, ...] = ()) -> None:
        command = [
            *prefix,
            sys.executable,
            "-m",
            "tests.support.acknowledging_child",
            str(state),
            str(concurrency),
            *options,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.acknowledged: dict[str, tuple[str, int]] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                if match := ACK.fullmatch(line.strip()):
                    self.acknowledged[match[1]] = (match[2], int(match[3]))

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.acknowledged) >= count or self.process.poll() is not None, seconds=60)
        assert self.process.poll() is None, "the child ended by itself"

    def kill(self) -> None:
        """SIGKILL; everything that it acknowledged is read afterwards."""
        self.process.kill()
        self.process.wait()
        self._reader.join()


def predictions_of(url: str) -> dict[str, tuple[str, int]]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT request_id, chain_id, seq FROM predictions")).all()
    return {row[0]: (row[1], row[2]) for row in rows}


@pytest.mark.slow
def test_kill_9_under_load_loses_no_acknowledged_row(settings: Settings) -> None:
    for round_ in range(2):
        child = Child(settings.state_dir, 16, *([settings.database_url] if settings.database_url else []))
        child.wait_for(150 + 40 * round_)
        child.kill()
        assert child.acknowledged.items() <= predictions_of(settings.database).items()
        if settings.database_url is not None:
            time.sleep(0.2)  # the server notices that its client is gone, and ends its transaction
        assert verify(settings).problems == []
    records = Records.open(settings, role="serve")  # the next process goes on
    records.record_now(event(0), prediction=prediction(0))
    records.close()
    assert verify(settings).chains == 3


# a file system that loses power

FUSE_MISSING = next(
    (
        reason
        for reason, missing in (
            ("/dev/fuse is not here", not Path("/dev/fuse").exists()),
            ("libfuse2 is not installed", ctypes.util.find_library("fuse") is None),
            ("fusermount is not installed", shutil.which("fusermount") is None),
        )
        if missing
    ),
    None,
)
needs_fuse = pytest.mark.skipif(FUSE_MISSING is not None, reason=f"no power cut was tested: {FUSE_MISSING}")


class PowerCutFs:
    """A mounted `powercut_fs` and its commands."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        command = [sys.executable, "-m", "tests.support.powercut_fs", str(mount)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, command: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "ok\n"


@contextmanager
def power(tmp_path: Path) -> Iterator[PowerCutFs]:
    mount = tmp_path / "mount"
    mount.mkdir()
    fs = PowerCutFs(mount)
    try:
        wait_until(lambda: mount.is_mount() or fs.process.poll() is not None)
        if not mount.is_mount():
            pytest.skip("no power cut was tested: FUSE refused to mount")
        yield fs
    finally:
        subprocess.run(["fusermount", "-u", "-z", str(mount)], check=False, capture_output=True)
        fs.process.kill()
        fs.process.communicate()


def cut_under_load(
    tmp_path: Path, command: str, *options: str, least: int = 60
) -> tuple[Settings, dict[str, tuple[str, int]]]:
    """Record on the file system, cut the power, and return what is left with what had been acknowledged."""
    image = tmp_path / "image"
    image.mkdir()
    with power(tmp_path) as fs:
        child = Child(fs.mount / "state", 16, *options)
        child.wait_for(least)
        fs.say(command.format(image=image))
        child.kill()
    return Settings(state_dir=image / "state"), child.acknowledged


@needs_fuse
@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["cut {image}", "torn {image} 1", "torn {image} 2"], ids=["lost", "torn-1", "torn-2"]
)
def test_a_power_cut_loses_no_acknowledged_row(tmp_path: Path, command: str) -> None:
    settings, acknowledged = cut_under_load(tmp_path, command)
    assert len(acknowledged) >= 60
    assert acknowledged.items() <= predictions_of(settings.database).items()
    assert verify(settings).problems == []
    records = Records.open(settings, role="serve")
    records.record_now(event(0), prediction=prediction(0))
    records.close()
    assert verify(settings).ok


@needs_fuse
@pytest.mark.slow
def test_the_power_cut_does_lose_rows_of_a_commit_that_does_not_wait(tmp_path: Path) -> None:
    """The positive control: with synchronous=NORMAL acknowledged rows are gone."""
    settings, acknowledged = cut_under_load(tmp_path, "cut {image}", "--plant-normal")
    try:
        kept = predictions_of(settings.database)
    except sa.exc.DatabaseError:
        kept = {}
    lost = acknowledged.keys() - kept.keys()
    print(f"synchronous=NORMAL: {len(lost)} of {len(acknowledged)} acknowledged rows lost")
    assert len(lost) > len(acknowledged) / 2


@needs_fuse
@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_a_disk_that_fails_refuses_then_recovers(tmp_path: Path, number: int) -> None:
    """Full, broken and read-only as the kernel says it; then the same database goes on, and no acknowledged row is missing."""
    image = tmp_path / "image"
    image.mkdir()
    acknowledged: list[int] = []
    with power(tmp_path) as fs:
        settings = Settings(state_dir=fs.mount / "state", audit_wait_s=3)
        records = Records.open(settings, role="serve")
        for i in range(30):
            if i == 10:
                fs.say(f"fail {number}")
            if i == 20:
                assert not records.healthy
                fs.say("fail 0")
                wait_until(lambda: records.healthy)
            try:
                records.record_now(event(i), prediction=prediction(i))
            except UnavailableError:
                continue
            acknowledged.append(i)
        fs.say(f"cut {image}")
        records.close()
    assert acknowledged == [*range(10), *range(20, 30)]
    left = Settings(state_dir=image / "state")
    assert {f"request-{i:06d}" for i in acknowledged} <= predictions_of(left.database).keys()
    assert verify(left).problems == []


@needs_fuse
@pytest.mark.slow
def test_a_slow_disk_makes_larger_groups_not_longer_queues(tmp_path: Path) -> None:
    """With an fsync of 20 ms, 16 at a time: one commit for many, else 64 events would take 1.3 s."""
    groups: list[int] = []
    with power(tmp_path) as fs:
        settings = Settings(state_dir=fs.mount / "state")
        records = Records.open(settings, role="serve", observe_commit=lambda n, _: groups.append(n))
        fs.say("slow 0.02")
        threads = [threading.Thread(target=lambda: [records.record_now(event(i)) for i in range(4)]) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fs.say("slow 0")
        records.close()
    assert sum(groups) == 65
    assert len(groups) <= 20


# the order of system calls


@pytest.fixture
def strace() -> str:
    program = shutil.which("strace")
    if program is None:
        pytest.skip("the order of system calls was not tested: strace is not here")
    if subprocess.run([program, "-o", "/dev/null", "true"], check=False, capture_output=True).returncode:
        pytest.skip("the order of system calls was not tested: strace may not trace here")
    return program


def traced(strace: str, tmp_path: Path, *options: str) -> tuple[int, int, int]:
    """Acknowledgements; those that an fdatasync preceded, after their insert; fdatasyncs. Of one traced run at concurrency 16."""
    trace = tmp_path / "trace"
    calls = "write,pwrite64,fdatasync,fsync"
    prefix = (strace, "-f", "-s", "9000", "-e", f"trace={calls}", "-o", str(trace))
    child = Child(tmp_path / "state", 16, *options, prefix=prefix)
    child.wait_for(100)
    (tracee,) = Path(f"/proc/{child.process.pid}/task/{child.process.pid}/children").read_text().split()
    os.kill(int(tracee), signal.SIGKILL)
    child.process.wait()
    child.kill()
    inserted: dict[str, int] = {}
    syncs: list[int] = []
    acknowledged: dict[str, int] = {}
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        if re.search(r"f(data)?sync\(\d+\) += 0|<\.\.\. f(data)?sync resumed>\) += 0", line):
            syncs.append(number)
        elif "pwrite64(" in line:
            for request in re.findall(r"request-\d{6}", line):
                inserted.setdefault(request, number)
        elif match := re.search(r' write\(1, "(request-\d{6}) ', line):
            acknowledged[match[1]] = number
    assert acknowledged.keys() <= inserted.keys()
    good = sum(any(inserted[request] < sync < at for sync in syncs) for request, at in acknowledged.items())
    after_start = [sync for sync in syncs if sync > min(inserted.values())]
    return len(acknowledged), good, len(after_start)


@pytest.mark.slow
def test_no_acknowledgement_leaves_before_the_fdatasync_that_follows_its_insert(strace: str, tmp_path: Path) -> None:
    acknowledged, good, syncs = traced(strace, tmp_path)
    print(f"{acknowledged} acknowledged at concurrency 16, {syncs} fdatasyncs")
    assert acknowledged >= 100
    assert good == acknowledged
    assert syncs < acknowledged / 2


@pytest.mark.slow
def test_the_trace_does_see_a_commit_that_does_not_wait(strace: str, tmp_path: Path) -> None:
    """The positive control: with synchronous=NORMAL acknowledgements leave first."""
    acknowledged, good, _ = traced(strace, tmp_path, "--plant-normal")
    assert good < acknowledged / 2


def test_the_write_ahead_log_is_what_is_synced(sqlite_settings: Settings) -> None:
    """Nothing is checkpointed by accident: after a commit the rows are in the log, not yet in the database file."""
    records = Records.open(sqlite_settings, role="serve")
    records.record_now(event(1), prediction=prediction(1))
    log = sqlite_settings.state_dir / "cxr.sqlite3-wal"
    assert b"request-000001" in log.read_bytes()
    assert b"request-000001" not in (sqlite_settings.state_dir / "cxr.sqlite3").read_bytes()
    records.close()
    assert not log.exists()
    with closing(sqlite3.connect(sqlite_settings.state_dir / "cxr.sqlite3")) as connection:
        assert connection.execute("SELECT count(*) FROM predictions").fetchone() == (1,)
