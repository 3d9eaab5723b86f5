"""Where decisions are kept: the `Store` contract and the in-memory one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from thinkroute.errors import UnknownDecision
from thinkroute.store.record import DecisionRecord, FeedbackRecord

__all__ = ["DecisionRecord", "FeedbackRecord", "MemoryStore", "Store"]


class Store(Protocol):
    """A decision log.

    `put` never blocks and never raises for load; what it accepted is readable at once by `get` in this process and
    durable after `flush` or `close`. `add_feedback` is durable when it returns.
    """

    def put(self, record: DecisionRecord) -> None:
        """Keep a record."""
        ...

    def get(self, decision_id: str) -> DecisionRecord | None:
        """The record with its feedback, or None."""
        ...

    def newest(self) -> DecisionRecord | None:
        """The record made last, or None in an empty log."""
        ...

    def add_feedback(self, decision_id: str, feedback: FeedbackRecord) -> None:
        """Join feedback to a decision, replacing earlier feedback of the same source.

        Raises:
            UnknownDecision: no such decision.
        """
        ...

    def spend_usd(self, since_s: float, key_id: str | None = None) -> float:
        """Known dollars of decisions made since then, of one key or of all."""
        ...

    def iter_records(self, since_s: float = 0.0) -> Iterable[DecisionRecord]:
        """Records in the order they were made, feedback joined."""
        ...

    def flush(self) -> None:
        """Wait until everything put so far is durable."""
        ...

    def close(self) -> None:
        """Flush and release. Safe to call twice."""
        ...


class MemoryStore:
    """A log that dies with the process; the newest `capacity` records are kept."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._records: dict[str, DecisionRecord] = {}
        self._feedback: dict[str, dict[str, FeedbackRecord]] = {}

    def put(self, record: DecisionRecord) -> None:
        """Keep a record."""
        self._records[record.decision_id] = record
        if len(self._records) > self._capacity:
            oldest = next(iter(self._records))
            del self._records[oldest]
            self._feedback.pop(oldest, None)

    def get(self, decision_id: str) -> DecisionRecord | None:
        """The record with its feedback, or None."""
        record = self._records.get(decision_id)
        if record is None:
            return None
        return msgspec.structs.replace(record, feedback=tuple(self._feedback.get(decision_id, {}).values()))

    def newest(self) -> DecisionRecord | None:
        """The record made last, or None."""
        return self.get(next(reversed(self._records))) if self._records else None

    def add_feedback(self, decision_id: str, feedback: FeedbackRecord) -> None:
        """Join feedback to a decision."""
        if decision_id not in self._records:
            raise UnknownDecision(f"no decision {decision_id!r:.100} in the log", param="decision_id")
        self._feedback.setdefault(decision_id, {})[feedback.source] = feedback

    def spend_usd(self, since_s: float, key_id: str | None = None) -> float:
        """Known dollars since then."""
        return sum(
            record.cost_usd or 0.0
            for record in self._records.values()
            if record.created_at >= since_s and (key_id is None or record.key_id == key_id)
        )

    def iter_records(self, since_s: float = 0.0) -> Iterable[DecisionRecord]:
        """Records in order, feedback joined."""
        for decision_id in list(self._records):
            record = self.get(decision_id)
            if record is not None and record.created_at >= since_s:
                yield record

    def flush(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to release."""
