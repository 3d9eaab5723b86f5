"""The tables of the decision log. A record is kept whole as JSON; the columns beside it are what queries filter by."""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, MetaData, String, Table, Text

METADATA = MetaData()

DECISIONS = Table(
    "decisions",
    METADATA,
    Column("decision_id", String, primary_key=True),
    Column("created_at", Float, nullable=False),
    Column("key_id", String),
    Column("arm_id", String),
    Column("status", String, nullable=False),
    Column(
        "cost_usd", Float
    ),  # what counts against budgets: the cost, or what was reserved where it is unknown
    Column("schema_version", Integer, nullable=False),
    Column("record", Text, nullable=False),
    Index("decisions_by_time", "created_at", "decision_id"),
    Index("decisions_by_key", "key_id", "created_at"),
)

FEEDBACK = Table(
    "feedback",
    METADATA,
    Column("decision_id", String, primary_key=True),
    Column("source", String, primary_key=True),
    Column("score", Float, nullable=False),
    Column("comment", Text),
    Column("created_at", Float, nullable=False),
)
