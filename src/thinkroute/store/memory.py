"""A store that forgets: for tests, and for serving without a file."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec

from thinkroute.errors import UnknownDecision
from thinkroute.store.record import DecisionRecord, FeedbackRecord


class MemoryStore:
    """The latest records in memory. Beyond `max_records` the oldest are forgotten, also by `spend_usd`."""

    def __init__(self, max_records: int = 10_000) -> None:
        self._max_records = max_records
        self._lock = threading.Lock()
        self._records: dict[str, DecisionRecord] = {}

    @property
    def dropped(self) -> int:
        """Always 0: forgetting the oldest is what this store is for."""
        return 0

    def put(self, record: DecisionRecord) -> None:
        """Keep a record, and forget the oldest if there are too many."""
        with self._lock:
            self._records.setdefault(record.decision_id, record)
            if len(self._records) > self._max_records:
                del self._records[next(iter(self._records))]

    def get(self, decision_id: str) -> DecisionRecord | None:
        """The record with its feedback."""
        return self._records.get(decision_id)

    def newest(self) -> DecisionRecord | None:
        """The latest record by creation time."""
        with self._lock:
            return max(self._records.values(), key=lambda record: record.created_at, default=None)

    def add_feedback(self, decision_id: str, feedback: FeedbackRecord) -> None:
        """Join a grade to a decision.

        Raises:
            UnknownDecision: no such decision, or it is forgotten.
        """
        with self._lock:
            record = self._records.get(decision_id)
            if record is None:
                raise UnknownDecision(f"no decision {decision_id!r} in the log", param="decision_id")
            kept = tuple(given for given in record.feedback if given.source != feedback.source)
            self._records[decision_id] = msgspec.structs.replace(record, feedback=(*kept, feedback))

    def spend_usd(self, since_s: float, key_id: str | None = None) -> float:
        """Dollars of the decisions still remembered."""
        return sum(record.spent_usd for record in self.iter_records(since_s, key_id=key_id))

    def iter_records(
        self, since_s: float | None = None, until_s: float | None = None, key_id: str | None = None
    ) -> Iterator[DecisionRecord]:
        """Records as they were when this was called, oldest first."""
        with self._lock:
            records = sorted(
                self._records.values(), key=lambda record: (record.created_at, record.decision_id)
            )
        return (
            record
            for record in records
            if (since_s is None or record.created_at >= since_s)
            and (until_s is None or record.created_at < until_s)
            and (key_id is None or record.key_id == key_id)
        )

    def flush(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to release."""
