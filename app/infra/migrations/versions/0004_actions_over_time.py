"""Actions that wait, are tried again and end at a deadline; a gate for each connection."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

DAY_MS = 24 * 3600 * 1000


def upgrade() -> None:
    op.create_table(
        "action_gates",
        sa.Column("connection_id", sa.String(length=40), nullable=False),
        sa.Column("own", sa.Boolean(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=True),
        sa.Column("rate", sa.Integer(), nullable=True),
        sa.Column("per", sa.Float(), nullable=True),
        sa.Column("next_at", sa.BigInteger(), nullable=False),
        sa.Column("outages", sa.Integer(), nullable=False),
        sa.Column("paused_until", sa.BigInteger(), nullable=False),
        sa.Column("pause_code", sa.String(length=60), nullable=True),
        sa.PrimaryKeyConstraint("connection_id", name=op.f("pk_action_gates")),
    )
    with op.batch_alter_table("actions") as actions:
        actions.add_column(sa.Column("waiting", sa.String(length=10), nullable=True))
        actions.add_column(sa.Column("schedule_start", sa.Integer(), nullable=True))
        actions.add_column(sa.Column("ambiguous", sa.Boolean(), nullable=True))
        actions.add_column(sa.Column("deadline", sa.BigInteger(), nullable=True))
    op.execute(
        "UPDATE actions SET schedule_start = 0, ambiguous = (state = 'unknown'), "  # noqa: S608 - a number of ours
        f"deadline = run_at + {DAY_MS}"
    )
    with op.batch_alter_table("actions") as actions:
        actions.alter_column("schedule_start", nullable=False)
        actions.alter_column("ambiguous", nullable=False)
        actions.alter_column("deadline", nullable=False)
    op.create_index("ix_actions_connection_id_state", "actions", ["connection_id", "state"], unique=False)
    op.create_index(
        "ix_actions_blocked",
        "actions",
        ["connection_id", "id"],
        unique=False,
        sqlite_where=sa.text("waiting = 'slot'"),
        postgresql_where=sa.text("waiting = 'slot'"),
    )
    op.create_index(
        "ix_actions_deadline",
        "actions",
        ["deadline"],
        unique=False,
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
