"""The tables. Every one is insert-only; those below `audit_payloads` are projections of event payloads (`projection.py`).

SQLite tables are STRICT, so that a column keeps its type; text has binary collation on both databases, so that order is the same.
`SCHEMA_HEAD` is the newest migration; a test compares these tables with what the migrations make.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final

from sqlalchemy import (
    REAL,
    BigInteger,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

from app.domain import InputStatistics

SCHEMA_HEAD: Final = "0004"

TEXT: TypeEngine[str] = Text().with_variant(Text(collation="C"), "postgresql")
INTEGER: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
FLOAT: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")

metadata = MetaData()


def _text(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, TEXT, nullable=nullable)


def _json(name: str) -> Column[str]:
    """Canonical JSON text of the payload's member of the same name."""
    return Column(name, TEXT, nullable=False, info={"json": True})


def _integer(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, INTEGER, nullable=nullable)


def _float(name: str, *, nullable: bool = False) -> Column[float]:
    return Column(name, FLOAT, nullable=nullable)


def _table(name: str, *items: SchemaItem) -> Table:
    return Table(
        name,
        metadata,
        _text("chain_id"),
        _integer("seq"),
        *items,
        PrimaryKeyConstraint("chain_id", "seq", name=f"pk_{name}"),
        sqlite_strict=True,
    )


def _projection(name: str, *items: SchemaItem) -> Table:
    """A table of which each row belongs to one event; `at` is the event's."""
    key = ForeignKeyConstraint(
        ["chain_id", "seq"], ["audit_events.chain_id", "audit_events.seq"], name=f"fk_{name}_event"
    )
    return _table(name, _text("at"), *items, key)


audit_events = _table(
    "audit_events",
    _text("at"),
    _text("kind"),
    _text("payload_sha256"),
    _text("key_id", nullable=True),
    _text("prev_mac"),
    _text("mac"),
)

audit_payloads = _table(
    "audit_payloads",
    _text("payload"),
    ForeignKeyConstraint(
        ["chain_id", "seq"], ["audit_events.chain_id", "audit_events.seq"], name="fk_audit_payloads_event"
    ),
)

# height and width of the film are the image_height and image_width columns
STATISTICS: Final = tuple(f.name for f in fields(InputStatistics) if f.name not in {"height", "width"})

predictions = _projection(
    "predictions",
    _text("key_id", nullable=True),
    _text("request_id"),
    _text("bundle_name"),
    _text("bundle_version"),
    _text("bundle_digest"),
    _text("engine"),
    _text("precision"),
    _text("image_sha256"),
    _text("image_format"),
    _integer("image_height"),
    _integer("image_width"),
    *(_float(f"stat_{name}") for name in STATISTICS),
    _text("task"),
    _text("label"),
    _json("positive"),
    _float("confidence", nullable=True),
    _json("probabilities"),
    _json("margins"),
    _text("operating_point"),
    _json("review_reasons"),
    _json("warnings"),
    _json("projection"),
    _float("latency_ms"),
    Index("ix_predictions_at", "at"),
)

# whose films were judged, as keyed pseudonyms; DICOM only
film_sources = _projection(
    "film_sources",
    _text("patient", nullable=True),
    _text("study", nullable=True),
    _text("instance", nullable=True),
    Index("ix_film_sources_patient", "patient"),
    Index("ix_film_sources_study", "study"),
    Index("ix_film_sources_instance", "instance"),
)

# first uses of Idempotency-Keys; the event of a row is the one that recorded the answer
idempotency_keys = _projection(
    "idempotency_keys",
    _text("key_id"),
    _text("pseudonym"),
    _text("fingerprint"),
    _text("bundle_digest"),
    _text("request_id"),
    _text("judged_at"),
    UniqueConstraint("key_id", "pseudonym", "bundle_digest", name="uq_idempotency_keys_use"),
)

api_keys = _projection(
    "api_keys",
    _text("id"),
    _text("role"),
    _text("name"),
    _text("pepper_id"),
    _text("secret_mac"),
    UniqueConstraint("id", name="uq_api_keys_id"),
)

# how urgent a key's requests are where they do not say; no row: routine. Made with the key, by the same event
api_key_lanes = _projection(
    "api_key_lanes",
    _text("id"),
    _text("lane"),
    UniqueConstraint("id", name="uq_api_key_lanes_id"),
)

api_key_revocations = _projection(
    "api_key_revocations",
    _text("id"),
    UniqueConstraint("id", name="uq_api_key_revocations_id"),
)

bundle_history = _projection(
    "bundle_history",
    _integer("position"),
    _text("event"),
    _integer("request", nullable=True),
    _text("name"),
    _text("version"),
    _text("digest"),
    _text("who"),
    _text("process", nullable=True),
    _text("reason", nullable=True),
    UniqueConstraint("position", name="uq_bundle_history_position"),
)

engine_choices = _projection(
    "engine_choices",
    _integer("position"),
    _text("bundle_digest"),
    _text("machine"),
    _text("variant"),
    _integer("batch"),
    _json("measured"),
    _text("who"),
    UniqueConstraint("position", name="uq_engine_choices_position"),
)
