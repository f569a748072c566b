"""The audit chain, predictions, API keys and the bundle history.

A migration states its tables itself: it must make the same ones for ever, whatever `tables.py` says later.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TEXT: TypeEngine[str] = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INTEGER: TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
FLOAT: TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")


def _columns(names: str, type_: TypeEngine[str] | TypeEngine[int] | TypeEngine[float]) -> list[sa.Column[object]]:
    """`a b?` makes the columns a (not null) and b (nullable)."""
    return [sa.Column(n.rstrip("?"), type_, nullable=n.endswith("?")) for n in names.split()]


def _table(name: str, *items: sa.Column[object] | sa.Constraint, event: bool = True) -> None:
    key = sa.ForeignKeyConstraint(
        ["chain_id", "seq"], ["audit_events.chain_id", "audit_events.seq"], name=f"fk_{name}_event"
    )
    op.create_table(
        name,
        *_columns("chain_id", TEXT),
        *_columns("seq", INTEGER),
        *items,
        *([key] if event else []),
        sa.PrimaryKeyConstraint("chain_id", "seq", name=f"pk_{name}"),
        sqlite_strict=True,
    )


def upgrade() -> None:
    _table("audit_events", *_columns("at kind payload_sha256 key_id? prev_mac mac", TEXT), event=False)
    _table("audit_payloads", *_columns("payload", TEXT))
    _table(
        "predictions",
        *_columns("at key_id? request_id bundle_name bundle_version bundle_digest engine precision", TEXT),
        *_columns("image_sha256 image_format", TEXT),
        *_columns("image_height image_width", INTEGER),
        *_columns("stat_mean stat_std stat_aspect stat_dark_fraction stat_bright_fraction stat_sharpness", FLOAT),
        *_columns("task label positive", TEXT),
        *_columns("confidence?", FLOAT),
        *_columns("probabilities margins operating_point review_reasons warnings projection", TEXT),
        *_columns("latency_ms", FLOAT),
    )
    op.create_index("ix_predictions_at", "predictions", ["at"])
    _table(
        "api_keys",
        *_columns("at id role name pepper_id secret_mac", TEXT),
        sa.UniqueConstraint("id", name="uq_api_keys_id"),
    )
    _table(
        "api_key_revocations",
        *_columns("at id", TEXT),
        sa.UniqueConstraint("id", name="uq_api_key_revocations_id"),
    )
    _table(
        "bundle_history",
        *_columns("at", TEXT),
        *_columns("position", INTEGER),
        *_columns("event", TEXT),
        *_columns("request?", INTEGER),
        *_columns("name version digest who process? reason?", TEXT),
        sa.UniqueConstraint("position", name="uq_bundle_history_position"),
    )


def downgrade() -> None:
    for name in ("bundle_history", "api_key_revocations", "api_keys", "predictions", "audit_payloads", "audit_events"):
        op.drop_table(name)
