"""`cxr audit verify`: is every record still what was written, and is every record still there?

In one snapshot of the database: the database's own integrity check; the schema; each chain from its first event (sequence, links,
MACs, payload hashes); every projected row against its payload, both ways; heads named elsewhere (the anchor file, the first events
of other chains) against what is there. Values are compared with their types. Anything that goes wrong while reading is a problem.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, RowMapping, Table, select, text

from app.errors import CxrError
from app.records.anchors import FILE_NAME, Anchors
from app.records.chain import GENESIS, Event, sha256_hex
from app.records.database import Database, schema_version
from app.records.keyring import KeyRing, Mac
from app.records.projection import PROJECTED, event_columns, own_columns, sections
from app.records.schema import schema_problems
from app.records.tables import SCHEMA_HEAD, audit_events, audit_payloads
from app.settings import Settings

PROBLEMS_MAX: Final = 1_000
_CHUNK: Final = 500


class Problem(NamedTuple):
    """What is wrong, and where; chain_id and seq are None for what concerns the database as a whole."""

    chain_id: str | None
    seq: int | None
    what: str

    def __str__(self) -> str:
        return self.what if self.chain_id is None else f"{self.chain_id}:{self.seq} {self.what}"


@dataclass
class VerifyReport:
    """What was found. notes: what could not be checked, and why."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    events: int = 0
    chains: int = 0
    predictions: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, chain_id: str | None, seq: int | None, what: str) -> None:
        """Keep a problem, up to a bound; the first beyond it says so."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(chain_id, seq, what))
        elif len(self.problems) == PROBLEMS_MAX:
            self.problems.append(Problem(None, None, f"more than {PROBLEMS_MAX} problems; the rest is not listed"))


Named = dict[tuple[str, int], set[str]]
Found = RowMapping


def verify(settings: Settings) -> VerifyReport:
    """Check everything; changes nothing, needs no running service and disturbs none."""
    report = VerifyReport()
    database: Database | None = None
    try:
        ring = KeyRing.open(settings.secrets_path / "keyring.json", create=False)
        # before the snapshot: what is anchored by now is in it
        anchors, unreadable = Anchors(settings.state_dir / FILE_NAME).read()
        if unreadable:
            report.notes.append(f"{unreadable} lines of the anchor file cannot be read (a power cut can tear one)")
        database = Database(settings)
        with database.reader.connect() as connection:
            if database.is_sqlite:
                connection.connection.driver_connection.text_factory = _any_text  # type: ignore[union-attr]  # sqlite3's
            else:
                connection.execution_options(isolation_level="REPEATABLE READ")
            _verify(connection, ring, {(h.chain_id, h.seq): {h.mac} for h in anchors.values()}, report)
    except CxrError as error:
        report.add(None, None, f"cannot be verified: {error}")
    except Exception as error:  # a damaged file can make any step fail
        report.add(None, None, f"cannot be read: {type(error).__name__}: {error}")
    finally:
        if database is not None:
            database.dispose()
    return report


def _verify(connection: Connection, ring: KeyRing, named: Named, report: VerifyReport) -> None:
    version = schema_version(connection)
    if version is not None and version < SCHEMA_HEAD:  # its tables are not ours yet, and nothing is wrong with them
        report.add(
            None, None, f"not checked: the database is at migration {version}; start this version once, then verify"
        )
        return
    integrity = _sqlite_integrity if connection.dialect.name == "sqlite" else _postgres_integrity
    _step(connection, report, "integrity check", lambda: integrity(connection, report))
    _step(connection, report, "schema", lambda: _schema(connection, report))
    _step(connection, report, "heads", lambda: _collect_named(connection, named))
    _step(connection, report, "records", lambda: _Walk(connection, ring, named, report).run())
    for (chain_id, seq), _ in sorted(named.items()):
        report.add(chain_id, seq, "missing: the anchor file or another chain names this event")


def _step(connection: Connection, report: VerifyReport, name: str, check: Callable[[], None]) -> None:
    try:
        with connection.begin_nested():
            check()
    except Exception as error:  # as in `verify`; the other steps go on
        report.add(None, None, f"{name}: cannot be read: {type(error).__name__}: {error}")


def _any_text(data: bytes) -> str:
    """Text that is not UTF-8 any more becomes visible as such, instead of ending the reading."""
    return data.decode("utf-8", "surrogateescape")


def _schema(connection: Connection, report: VerifyReport) -> None:
    for problem in schema_problems(connection):
        report.add(None, None, f"schema: {problem}")


def _sqlite_integrity(connection: Connection, report: VerifyReport) -> None:
    for (line,) in connection.execute(text("PRAGMA integrity_check")):
        if line != "ok":
            report.add(None, None, f"integrity check: {line}")


def _postgres_integrity(connection: Connection, report: VerifyReport) -> None:
    installed = connection.execute(text("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'")).first()
    if installed is None:
        report.notes.append("the database's own integrity check was skipped: the extension amcheck is not installed")
        return
    for table in (audit_events, audit_payloads, *PROJECTED.values()):
        for row in connection.execute(
            text("SELECT msg FROM verify_heapam(CAST(:name AS regclass))"), {"name": table.name}
        ):
            report.add(None, None, f"integrity check: {table.name}: {row.msg}")
        indexes = text("SELECT bt_index_check(indexrelid, true) FROM pg_index WHERE indrelid = CAST(:name AS regclass)")
        connection.execute(indexes, {"name": table.name})


def _collect_named(connection: Connection, named: Named) -> None:
    """The heads of other chains that first events name. Their payloads are checked in the walk like all others."""
    join = audit_payloads.join(audit_events)
    query = select(audit_payloads.c.payload).select_from(join).where(audit_events.c.kind == "chain_started")
    for (payload,) in connection.execute(query.execution_options(yield_per=_CHUNK)):
        for chain_id, (seq, mac) in json.loads(payload)["heads"].items():
            named.setdefault((chain_id, seq), set()).add(mac)


class _Rows:
    """One table in the order of the chains, read alongside the events."""

    def __init__(self, connection: Connection, table: Table, report: VerifyReport) -> None:
        query = select(table).order_by(table.c.chain_id, table.c.seq).execution_options(yield_per=_CHUNK)
        self._rows: Iterator[Found] = iter(connection.execute(query).mappings())
        self._name, self._report = table.name, report
        self._next = next(self._rows, None)

    def take(self, key: tuple[str, int] | None) -> list[Found]:
        """The rows of one event; None at the end. Rows passed by on the way have no event and are reported."""
        found = []
        while self._next is not None:
            row, own = self._next, (self._next["chain_id"], self._next["seq"])
            valid = isinstance(own[0], str) and isinstance(own[1], int)
            if valid and key is not None and own > key:
                break
            if own == key:
                found.append(row)
            else:
                self._report.add(*own, f"{self._name} has a row without an event")
            self._next = next(self._rows, None)
        return found


class _Walk:
    """From event to event in the order of the chains."""

    def __init__(self, connection: Connection, ring: KeyRing, named: Named, report: VerifyReport) -> None:
        self._ring, self._named, self._report = ring, named, report
        query = select(audit_events).order_by(audit_events.c.chain_id, audit_events.c.seq)
        self._events = connection.execute(query.execution_options(yield_per=_CHUNK)).mappings()
        self._payloads = _Rows(connection, audit_payloads, report)
        self._projected = {table: _Rows(connection, table, report) for table in PROJECTED.values()}

    def run(self) -> None:
        chain_id, expected, previous = "", 0, None
        for row in self._events:
            self._report.events += 1
            if not isinstance(row["chain_id"], str) or not isinstance(row["seq"], int):
                self._report.add(None, None, f"an event is called {row['chain_id']!r}:{row['seq']!r}")
                continue
            if row["chain_id"] != chain_id:
                chain_id, expected, previous = row["chain_id"], 0, GENESIS
                self._report.chains += 1
            if row["seq"] != expected:
                self._gap(row, expected)
                previous = None
            whole = self._event(row, previous)
            self._rows_of(row)
            # what follows a changed event is judged by its own MAC only
            previous, expected = (row["mac"] if whole else None), row["seq"] + 1
        for rows in (self._payloads, *self._projected.values()):
            rows.take(None)

    def _gap(self, row: Found, expected: int) -> None:
        if row["seq"] > expected:
            self._report.add(row["chain_id"], expected, f"missing: events {expected} to {row['seq'] - 1}")
        else:
            self._report.add(row["chain_id"], row["seq"], "there twice, or out of order")

    def _event(self, row: Found, previous: str | None) -> bool:
        """Check one event by itself, against the one before it, and against what is said of it elsewhere."""
        chain_id, seq, mac = row["chain_id"], row["seq"], row["mac"]
        event = Event(**{name: row[name] for name in Event.__dataclass_fields__})
        parsed = Mac.parse(mac) if isinstance(mac, str) else Mac("", "")
        if not self._ring.knows("audit_mac", parsed.key_id):
            self._report.add(chain_id, seq, "the event names a MAC key that is not in the key ring")
            whole = False
        else:
            whole = self._ring.check("audit_mac", event.mac_input(parsed.key_id), parsed)
            if not whole:
                self._report.add(chain_id, seq, "the event was changed: its MAC does not fit")
        if previous is not None and row["prev_mac"] != previous:
            self._report.add(chain_id, seq, "the event does not follow the one before it")
        if seq == 0 and row["kind"] != "chain_started":
            self._report.add(chain_id, seq, "the chain does not begin with its start")
        if self._named.pop((chain_id, seq), {mac}) != {mac}:
            self._report.add(chain_id, seq, "the anchor file or another chain names another event here")
        return whole

    def _rows_of(self, row: Found) -> None:
        """Check the payload, and each projected row against it."""
        key = row["chain_id"], row["seq"]
        payloads = self._payloads.take(key)
        found = {table: rows.take(key) for table, rows in self._projected.items()}
        payload = self._payload(row, payloads)
        if payload is None:
            return
        try:
            expected = {table: own_columns(table, section) for table, section in sections(payload)}
        except ValueError as error:
            self._report.add(*key, f"the payload does not fit its table: {error}")
            return
        for table, rows in found.items():
            want = expected.get(table)
            if want is not None:
                want = event_columns(table, *key, row["at"], row["key_id"]) | want
                self._report.predictions += table.name == "predictions"
            self._compare(key, table, want, rows)

    def _payload(self, row: Found, found: list[Found]) -> Mapping[str, Any] | None:
        key = row["chain_id"], row["seq"]
        if len(found) != 1:
            self._report.add(*key, f"the event has {len(found)} payloads")
            return None
        payload = found[0]["payload"]
        if (
            not isinstance(payload, str)
            or sha256_hex(payload.encode("utf-8", "surrogateescape")) != row["payload_sha256"]
        ):
            self._report.add(*key, "the payload was changed: its hash does not fit")
            return None
        try:
            value = json.loads(payload)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            self._report.add(*key, "the payload is not a JSON object")
            return None
        return value

    def _compare(self, key: tuple[str, int], table: Table, want: Mapping[str, Any] | None, rows: list[Found]) -> None:
        if want is None:
            if rows:
                self._report.add(*key, f"{table.name} has a row that the payload does not speak of")
            return
        if len(rows) != 1:
            self._report.add(*key, f"{table.name} has {len(rows)} rows for this event, must have one")
        for row in rows:
            changed = [name for name, value in want.items() if not _same(row[name], value)]
            if changed:
                self._report.add(*key, f"{table.name}: {', '.join(changed)} differ from the payload")


def _same(found: object, expected: object) -> bool:
    """Equal in type and value; floats bit by bit."""
    if isinstance(found, float) and isinstance(expected, float):
        return found.hex() == expected.hex()
    return type(found) is type(expected) and found == expected
