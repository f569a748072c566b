"""Whose films were judged (pseudonyms), and first uses of Idempotency-Keys.

A migration states its tables itself: it must make the same ones for ever, whatever `tables.py` says later.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TEXT: TypeEngine[str] = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INTEGER: TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _table(name: str, columns: str, *items: sa.Constraint) -> None:
    """`a b?` makes the text columns a (not null) and b (nullable)."""
    op.create_table(
        name,
        sa.Column("chain_id", TEXT, nullable=False),
        sa.Column("seq", INTEGER, nullable=False),
        *(sa.Column(n.rstrip("?"), TEXT, nullable=n.endswith("?")) for n in columns.split()),
        *items,
        sa.ForeignKeyConstraint(
            ["chain_id", "seq"], ["audit_events.chain_id", "audit_events.seq"], name=f"fk_{name}_event"
        ),
        sa.PrimaryKeyConstraint("chain_id", "seq", name=f"pk_{name}"),
        sqlite_strict=True,
    )


def upgrade() -> None:
    _table("film_sources", "at patient? study? instance?")
    for column in ("patient", "study", "instance"):
        op.create_index(f"ix_film_sources_{column}", "film_sources", [column])
    _table(
        "idempotency_keys",
        "at key_id pseudonym fingerprint bundle_digest request_id judged_at",
        sa.UniqueConstraint("key_id", "pseudonym", "bundle_digest", name="uq_idempotency_keys_use"),
    )


def downgrade() -> None:
    for name in ("idempotency_keys", "film_sources"):
        op.drop_table(name)
