"""How urgent a key's requests are where they do not say.

A table of its own and not a column of `api_keys`: the payloads of keys made before have no such member, and must go on making exactly
their rows.

A migration states its tables itself: it must make the same ones for ever, whatever `tables.py` says later.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TEXT: TypeEngine[str] = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INTEGER: TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "api_key_lanes",
        sa.Column("chain_id", TEXT, nullable=False),
        sa.Column("seq", INTEGER, nullable=False),
        *(sa.Column(name, TEXT, nullable=False) for name in ("at", "id", "lane")),
        sa.UniqueConstraint("id", name="uq_api_key_lanes_id"),
        sa.ForeignKeyConstraint(
            ["chain_id", "seq"], ["audit_events.chain_id", "audit_events.seq"], name="fk_api_key_lanes_event"
        ),
        sa.PrimaryKeyConstraint("chain_id", "seq", name="pk_api_key_lanes"),
        sqlite_strict=True,
    )


def downgrade() -> None:
    op.drop_table("api_key_lanes")
