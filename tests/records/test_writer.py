"""The writer: groups, bounds, and what happens when the database fails."""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from app.errors import UnavailableError
from app.records import AuditEvent, EventId, Records
from app.records.waiters import AsyncWaiter
from app.settings import Settings
from tests.records.conftest import OpenRecords
from tests.records.samples import event, prediction


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@contextmanager
def writer_held(records: Records, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The writer's commits wait, as on a disk that does not answer. Yields: set to go on; set when one waits."""
    go, waiting = threading.Event(), threading.Event()
    real = records._writer._commit

    def commit(group: Any) -> Any:
        waiting.set()
        go.wait(20)
        return real(group)

    monkeypatch.setattr(records._writer, "_commit", commit)
    try:
        yield go, waiting
    finally:
        go.set()


def refused(error: BaseException | EventId) -> bool:
    return isinstance(error, UnavailableError) and error.code == "audit_unavailable" and error.status == 503


def test_the_chain_begins_at_open_and_goes_on(settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(settings)
    first = records.record_now(event(1), prediction=prediction(1))
    second = asyncio.run(records.record(AuditEvent("refused", "abcdefgh", {"code": "too_small"})))
    assert first == EventId(records.chain_id, 1)
    assert second == EventId(records.chain_id, 2)
    report = records.verify()
    assert (report.problems, report.events, report.chains, report.predictions) == ([], 3, 1, 1)


def test_a_command_that_changes_nothing_leaves_no_chain(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    open_records(sqlite_settings, role="cli").keys.list()
    report = open_records(sqlite_settings, role="cli").verify()
    assert (report.ok, report.chains) == (True, 0)


def test_many_submitters_share_commits_and_keep_their_own_ids(settings: Settings, open_records: OpenRecords) -> None:
    groups: list[int] = []
    records = open_records(settings, observe_commit=lambda n, _: groups.append(n))
    taken: dict[int, EventId] = {}

    async def submit(worker: int) -> None:
        for i in range(10):
            number = worker * 10 + i
            taken[number] = await records.record(event(number), prediction=prediction(number))

    async def all_() -> None:
        await asyncio.gather(*(submit(worker) for worker in range(32)))

    asyncio.run(all_())
    assert sorted(e.seq for e in taken.values()) == list(range(1, 321))
    assert sum(groups) == 321
    assert len(groups) < 160
    assert max(groups) <= settings.audit_group_max
    with records._database.reader.connect() as connection:
        rows = connection.execute(sa.text("SELECT seq, request_id FROM predictions")).all()
    assert dict(tuple(row) for row in rows) == {e.seq: f"request-{n:06d}" for n, e in taken.items()}
    assert records.verify().ok


def test_threads_and_loops_can_submit_together(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)

    def loop() -> None:
        async def submit() -> None:
            await asyncio.gather(*(records.record(event(i)) for i in range(20)))

        asyncio.run(submit())

    def block() -> None:
        for i in range(20):
            records.record_now(event(i))

    threads = [threading.Thread(target=target) for target in (loop, loop, block, block)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = records.verify()
    assert (report.ok, report.events) == (True, 81)


def test_a_bad_event_fails_alone(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)

    async def submit() -> list[BaseException | EventId]:
        bad = AuditEvent("predict", None, {"x": float("nan")})
        return await asyncio.gather(
            *(records.record(bad if i % 3 == 0 else event(i)) for i in range(9)), return_exceptions=True
        )

    results = asyncio.run(submit())
    assert [isinstance(r, ValueError) for r in results] == [True, False, False] * 3
    assert records.healthy
    assert records.verify().events == 7


def test_a_full_queue_refuses_at_once(
    sqlite_settings: Settings, open_records: OpenRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = open_records(sqlite_settings.model_copy(update={"audit_queue_max": 5, "audit_group_max": 2}))

    async def submit() -> list[BaseException | EventId]:
        with writer_held(records, monkeypatch) as (go, waiting):
            first = asyncio.create_task(records.record(event(0)))
            await asyncio.to_thread(waiting.wait)
            tasks = [asyncio.create_task(records.record(event(i))) for i in range(1, 9)]
            await asyncio.sleep(0.05)
            assert [t.done() for t in tasks] == [False] * 5 + [True] * 3
            go.set()
            return await asyncio.gather(first, *tasks, return_exceptions=True)

    results = asyncio.run(submit())
    assert [isinstance(r, EventId) for r in results] == [True] * 6 + [False] * 3
    assert all(refused(r) for r in results[6:])
    assert isinstance(results[-1], UnavailableError)
    assert results[-1].retry_after_s == 1.0
    assert records.healthy


def test_the_wait_is_bounded_and_the_event_may_still_land(
    sqlite_settings: Settings, open_records: OpenRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = open_records(sqlite_settings.model_copy(update={"audit_wait_s": 0.2}))

    async def submit() -> float:
        with writer_held(records, monkeypatch):
            began = time.monotonic()
            with pytest.raises(UnavailableError):
                await records.record(event(0))
            return time.monotonic() - began

    assert 0.2 <= asyncio.run(submit()) < 2
    with writer_held(records, monkeypatch), pytest.raises(UnavailableError):
        records.record_now(event(1))
    records.record_now(event(2))
    assert records.verify().events == 4


def test_a_cancelled_caller_leaves_nothing_behind(
    sqlite_settings: Settings, open_records: OpenRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = open_records(sqlite_settings)

    async def submit() -> None:
        with writer_held(records, monkeypatch) as (go, _):
            tasks = [asyncio.create_task(records.record(event(i))) for i in range(20)]
            await asyncio.sleep(0.05)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.sleep(0)
            go.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, EventId) for result in results] == [False, True] * 10
        await records.record(event(99))

    asyncio.run(submit())
    assert records.verify().events == 22  # each was decided, so each is recorded
    gc.collect()
    assert not [
        o for o in gc.get_objects() if type(o) is AsyncWaiter
    ]  # isinstance would wake lazy objects of other libraries


def test_a_loop_that_is_gone_does_not_stop_the_writer(
    sqlite_settings: Settings, open_records: OpenRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = open_records(sqlite_settings)
    loop = asyncio.new_event_loop()
    with writer_held(records, monkeypatch):
        task = loop.create_task(records.record(event(0)))
        loop.run_until_complete(asyncio.sleep(0.05))
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
    assert records.record_now(event(1)).seq == 2


def test_closing_writes_what_is_queued(
    sqlite_settings: Settings, open_records: OpenRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = open_records(sqlite_settings)

    async def submit() -> list[BaseException | EventId]:
        with writer_held(records, monkeypatch) as (go, _):
            tasks = [asyncio.create_task(records.record(event(i))) for i in range(20)]
            await asyncio.sleep(0.05)
            closing = asyncio.create_task(asyncio.to_thread(records.close))
            await asyncio.sleep(0.05)
            with pytest.raises(UnavailableError):
                await records.record(event(99))
            go.set()
            await closing
            return await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(r, EventId) for r in asyncio.run(submit()))
    assert records.reason == "audit_writer_ended"


def test_counts_are_written_when_their_minute_is_over_and_at_close(settings: Settings) -> None:
    records = Records.open(settings, role="serve", tick_s=0.05)
    for _ in range(5):
        records.count("authentication", "abcdefgh", "unauthenticated")
    records.count("overloaded", "abcdefgh")
    time.sleep(0.2)  # ticks pass, the minute is not over (or was just now, then it is written already)
    records.close()
    with sa.create_engine(settings.database, poolclass=sa.NullPool).connect() as connection:
        events = sa.text("SELECT e.kind, p.payload FROM audit_events e NATURAL JOIN audit_payloads p WHERE e.seq > 0")
        rows = [(kind, json.loads(payload)) for kind, payload in connection.execute(events)]
    assert {kind for kind, _ in rows} == {"counted"}
    assert {(p["kind"], p["code"], p["key_prefix"]): p["count"] for _, p in rows} == {
        ("authentication", "unauthenticated", "abcdefgh"): 5,
        ("overloaded", "overloaded", "abcdefgh"): 1,
    }


# failures


def recorded(records: Records, number: int) -> bool:
    try:
        records.record_now(event(number), prediction=prediction(number))
    except UnavailableError:
        return False
    return True


@pytest.mark.parametrize("landed", [True, False])
def test_a_failed_commit_is_not_retried_and_the_head_is_read_again(
    settings: Settings, open_records: OpenRecords, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    """The connection says that the commit failed; it did, or it did not."""
    failures: list[None] = []
    records = open_records(settings, observe_failure=lambda: failures.append(None))
    assert recorded(records, 1)
    engine = records._database.writer
    real = engine.dialect.do_commit
    calls: list[int] = []

    def do_commit(connection: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            if landed:
                real(connection)
            raise sqlite3.OperationalError("disk I/O error")
        real(connection)

    monkeypatch.setattr(engine.dialect, "do_commit", do_commit)
    assert not recorded(records, 2)
    wait_until(lambda: records.healthy)
    assert recorded(records, 3)
    report = records.verify()
    assert report.problems == []
    assert report.predictions == (3 if landed else 2)
    assert len(failures) == 1
    with records._database.reader.connect() as connection:
        rows = connection.execute(sa.text("SELECT kind, seq, mac FROM audit_events ORDER BY seq")).all()
    kinds = [row.kind for row in rows]
    assert kinds == ["chain_started", "predict", *(["predict"] if landed else []), "audit_recovered", "predict"]
    anchored = [line.split()[3:] for line in (settings.state_dir / "audit_anchors.log").read_text().splitlines()]
    assert {(int(seq), mac) for seq, mac in anchored} <= {
        (row.seq, row.mac) for row in rows
    }  # never ahead of the database


def test_everyone_in_the_group_and_in_the_queue_is_refused(
    sqlite_settings: Settings, open_records: OpenRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = open_records(sqlite_settings.model_copy(update={"audit_group_max": 4}))
    real = records._writer._commit
    failing = [True]

    def commit(group: Any) -> Any:
        time.sleep(0.1)
        if failing[0]:
            raise OSError("gone")
        return real(group)

    monkeypatch.setattr(records._writer, "_commit", commit)

    async def submit() -> list[BaseException | EventId]:
        return await asyncio.gather(*(records.record(event(i)) for i in range(12)), return_exceptions=True)

    assert all(refused(r) for r in asyncio.run(submit()))
    assert (records.healthy, records.reason, records.queued) == (False, "audit_store_unavailable", 0)
    began = time.monotonic()
    assert not recorded(records, 0)
    assert time.monotonic() - began < 0.1  # refused at once while unhealthy
    failing[0] = False
    wait_until(lambda: records.healthy)
    assert recorded(records, 1)


def test_a_full_disk_refuses_then_recovers(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    """SQLITE_FULL by a bound on the file's pages, which every new connection gets too."""
    records = open_records(sqlite_settings)
    bound = [60]

    def limit(connection: Any, _: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={bound[0]}").fetchall()

    sa.event.listen(records._database.writer, "connect", limit)
    connection = records._writer._connection
    assert connection is not None
    limit(connection.connection.driver_connection, None)
    acknowledged = 0
    while recorded(records, acknowledged):
        acknowledged += 1
        assert acknowledged < 500
    assert (records.healthy, records.reason) == (False, "audit_store_full")
    time.sleep(0.3)
    assert not records.healthy
    bound[0] = 2**30
    wait_until(lambda: records.healthy)
    assert recorded(records, 501)
    report = records.verify()
    assert (report.problems, report.predictions) == ([], acknowledged + 1)


def test_a_database_locked_by_another_process_refuses_then_recovers(
    sqlite_settings: Settings, open_records: OpenRecords
) -> None:
    records = open_records(sqlite_settings.model_copy(update={"audit_wait_s": 0.6}))
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        " c.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.readline()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(sqlite_settings.state_dir / "cxr.sqlite3")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdin is not None
    assert other.stdout is not None
    other.stdout.readline()
    assert not recorded(records, 1)
    wait_until(lambda: records.reason == "audit_store_locked")
    other.communicate(b"\n")
    wait_until(lambda: records.healthy)
    assert recorded(records, 2)
    assert records.verify().ok


def test_a_read_only_database_refuses_then_recovers(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)
    mode = ["ON"]

    def set_mode(connection: Any, _: Any) -> None:
        connection.execute(f"PRAGMA query_only={mode[0]}")

    sa.event.listen(records._database.writer, "connect", set_mode)
    connection = records._writer._connection
    assert connection is not None
    set_mode(connection.connection.driver_connection, None)
    assert not recorded(records, 1)
    wait_until(lambda: records.reason == "audit_store_read_only")
    mode[0] = "OFF"
    wait_until(lambda: records.healthy)
    assert recorded(records, 2)
    assert records.verify().ok


def test_a_postgres_that_drops_the_connection_refuses_then_recovers(
    postgres_settings: Settings, open_records: OpenRecords
) -> None:
    records = open_records(postgres_settings)
    assert recorded(records, 1)
    engine = sa.create_engine(postgres_settings.database, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    assert not recorded(records, 2)
    wait_until(lambda: records.healthy)
    assert recorded(records, 3)
    report = records.verify()
    assert (report.problems, report.predictions) == ([], 2)


def test_an_anchor_file_that_cannot_be_written_refuses(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    records = open_records(sqlite_settings)
    anchors = sqlite_settings.state_dir / "audit_anchors.log"
    kept = anchors.rename(anchors.with_suffix(".kept"))
    anchors.mkdir()
    assert not recorded(records, 1)
    assert not records.healthy
    anchors.rmdir()
    kept.rename(anchors)
    wait_until(lambda: records.healthy)
    assert recorded(records, 2)
    assert records.verify().problems == []


def test_a_chain_that_lost_its_tail_is_not_continued(sqlite_settings: Settings, open_records: OpenRecords) -> None:
    """The database was put back to an older state while the service ran: no event may be written over the gap."""
    records = open_records(sqlite_settings)
    assert recorded(records, 1)
    with sqlite3.connect(sqlite_settings.state_dir / "cxr.sqlite3", isolation_level=None) as other:
        for table in ("predictions", "audit_payloads", "audit_events"):
            other.execute(f"DELETE FROM {table} WHERE seq = 1")
    other.close()
    records._writer._connection.connection.driver_connection.close()  # type: ignore[union-attr]  # it broke, too
    assert not recorded(records, 2)
    wait_until(lambda: records.reason == "audit_chain_lost")
    assert not recorded(records, 3)
    assert (records.chain_id, 1) in {problem[:2] for problem in records.verify().problems}
