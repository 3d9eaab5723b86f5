"""What every store promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from thinkroute.store.record import DecisionRecord, FeedbackRecord


class Store(Protocol):
    """A decision log. All methods may be called from any thread.

    Only `put` and `dropped` may be called on an event loop; the others can wait for a disk.
    """

    @property
    def dropped(self) -> int:
        """Records that were lost because the log could not keep up."""
        ...

    def put(self, record: DecisionRecord) -> None:
        """Keep a record. Returns at once; the record is durable after `flush` or `close`.

        A record that cannot be kept is counted in `dropped` and logged, never raised: by now the caller has its
        answer. The first record of an id wins.
        """
        ...

    def get(self, decision_id: str) -> DecisionRecord | None:
        """The record of this id with its feedback, also when it was put a moment ago; None when there is none."""
        ...

    def newest(self) -> DecisionRecord | None:
        """The latest record by creation time, with its feedback; None when the log is empty."""
        ...

    def add_feedback(self, decision_id: str, feedback: FeedbackRecord) -> None:
        """Join a grade to a decision, replacing an earlier one of the same source. Durable when it returns.

        Raises:
            UnknownDecision: no such decision.
        """
        ...

    def spend_usd(self, since_s: float, key_id: str | None = None) -> float:
        """Dollars of all decisions made since this time, of one key or of all; unknown costs count as nothing."""
        ...

    def iter_records(
        self, since_s: float | None = None, until_s: float | None = None, key_id: str | None = None
    ) -> Iterator[DecisionRecord]:
        """Records with their feedback, oldest first, created in [since_s, until_s)."""
        ...

    def flush(self) -> None:
        """Make everything put so far durable."""
        ...

    def close(self) -> None:
        """Flush, then release everything. Closing twice does nothing."""
        ...
