"""The decision log: one record per request, joined by feedback, exportable as outcomes.

`MemoryStore` needs nothing; `thinkroute.store.sqlite.SqliteStore` keeps a file and is imported only when one is used.
"""

from __future__ import annotations

from thinkroute.store.export import OutcomeRow, outcome_rows
from thinkroute.store.memory import MemoryStore
from thinkroute.store.protocol import Store
from thinkroute.store.record import DecisionRecord, FeedbackRecord, LegRecord, ScoreRecord

__all__ = [
    "DecisionRecord",
    "FeedbackRecord",
    "LegRecord",
    "MemoryStore",
    "OutcomeRow",
    "ScoreRecord",
    "Store",
    "outcome_rows",
]
