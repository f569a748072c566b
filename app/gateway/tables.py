"""The tables of `gateway.sqlite3`. Identifiers stand here only as keyed pseudonyms; what is sealed decrypts only with the key ring.

`SCHEMA_VERSION` is SQLite's `user_version`. To change a table: raise it, add the step to `store._STEPS`, test on a file of the old form.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    REAL,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION: Final = 1
metadata = MetaData()

contents = Table(
    "contents",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("label", Text, nullable=False),  # what it is; the associated data of the seal
    Column("size", Integer, nullable=False),  # bytes before sealing
    Column("sealed", LargeBinary, nullable=False),
    sqlite_strict=True,
)
"""Sealed films and result objects. A row goes when nothing refers to it any more."""

films = Table(
    "films",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("instance", Text, nullable=False),  # pseudonyms of the three UIDs
    Column("series", Text, nullable=False),
    Column("study", Text, nullable=False),
    Column("sha256", Text, nullable=False),  # of the file as received
    Column("peer", Text, nullable=False),
    Column("facts", LargeBinary, nullable=False),  # sealed `FilmFacts`
    Column("content", Integer, ForeignKey("contents.id")),
    Column("state", Text, nullable=False),
    Column("rule", Text),  # key of the rule that selected it
    Column("attempts", Integer, nullable=False),
    Column("next_at", REAL, nullable=False),  # seconds since 1970, as all times here
    Column("code", Text),
    Column("received_at", REAL, nullable=False),
    Column("changed_at", REAL, nullable=False),
    UniqueConstraint("instance", "sha256", name="uq_films_instance_sha256"),
    Index("ix_films_state_study", "state", "study"),
    Index("ix_films_study", "study"),
    Index("ix_films_content", "content"),
    sqlite_strict=True,
)

judgements = Table(
    "judgements",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("instance", Text, nullable=False),
    Column("bundle", Text, nullable=False),  # name/version
    Column("code", Text),  # of the refusal, None where it was judged
    Column("at", REAL, nullable=False),
    UniqueConstraint("instance", "bundle", name="uq_judgements_instance_bundle"),
    sqlite_strict=True,
)
"""One row for a film and a bundle, made in one transaction with its deliveries: what makes a second result impossible."""

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("destination", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("message", Text, nullable=False),  # pseudonym that is stable over retries; DICOM: of the SOP Instance UID
    Column("content", Integer, ForeignKey("contents.id")),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", REAL, nullable=False),
    Column("code", Text),
    Column("created_at", REAL, nullable=False),
    Column("changed_at", REAL, nullable=False),
    UniqueConstraint("destination", "message", name="uq_deliveries_destination_message"),
    Index("ix_deliveries_state", "destination", "state"),
    Index("ix_deliveries_message", "message"),
    Index("ix_deliveries_content", "content"),
    sqlite_strict=True,
)
