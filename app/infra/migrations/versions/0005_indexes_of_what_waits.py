"""Indexes for what is queued, running and unknown, in place of one over every state and of one that another
begins with."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, column, state in (
        ("ix_actions_due", "run_at", "queued"),
        ("ix_actions_running", "owner", "running"),
        ("ix_actions_unknown", "id", "unknown"),
    ):
        only = sa.text(f"state = '{state}'")
        op.create_index(name, "actions", [column], unique=False, sqlite_where=only, postgresql_where=only)
    op.drop_index("ix_actions_state_owner", table_name="actions")
    op.drop_index(op.f("ix_actions_connection_id"), table_name="actions")
