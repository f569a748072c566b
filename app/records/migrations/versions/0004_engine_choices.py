"""Which variant of a bundle's network a machine runs: measured once, or chosen by a person.

A migration states its tables itself: it must make the same ones for ever, whatever `tables.py` says later.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TEXT: TypeEngine[str] = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INTEGER: TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "engine_choices",
        sa.Column("chain_id", TEXT, nullable=False),
        sa.Column("seq", INTEGER, nullable=False),
        sa.Column("at", TEXT, nullable=False),
        *(sa.Column(name, INTEGER, nullable=False) for name in ("position", "batch")),
        *(sa.Column(name, TEXT, nullable=False) for name in ("bundle_digest", "machine", "variant", "measured", "who")),
        sa.UniqueConstraint("position", name="uq_engine_choices_position"),
        sa.ForeignKeyConstraint(
            ["chain_id", "seq"], ["audit_events.chain_id", "audit_events.seq"], name="fk_engine_choices_event"
        ),
        sa.PrimaryKeyConstraint("chain_id", "seq", name="pk_engine_choices"),
        sqlite_strict=True,
    )


def downgrade() -> None:
    op.drop_table("engine_choices")
