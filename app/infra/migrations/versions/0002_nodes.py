"""Nodes and what they hold, and who answers a webhook."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("role", sa.String(length=10), nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_nodes")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("node", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_index(op.f("ix_leases_node"), "leases", ["node"], unique=False)
    op.add_column("webhooks", sa.Column("owner", sa.String(length=40), nullable=True))
    op.create_index(
        "ix_webhooks_answering",
        "webhooks",
        ["seq"],
        unique=False,
        sqlite_where=sa.text("state = 'answering'"),
        postgresql_where=sa.text("state = 'answering'"),
    )
