"""Decisions and their feedback."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "decisions",
        sa.Column("decision_id", sa.String, primary_key=True),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("key_id", sa.String),
        sa.Column("arm_id", sa.String),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("cost_usd", sa.Float),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
    )
    op.create_index("decisions_by_time", "decisions", ["created_at", "decision_id"])
    op.create_index("decisions_by_key", "decisions", ["key_id", "created_at"])
    op.create_table(
        "feedback",
        sa.Column("decision_id", sa.String, primary_key=True),
        sa.Column("source", sa.String, primary_key=True),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("comment", sa.Text),
        sa.Column("created_at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("feedback")
    op.drop_table("decisions")
