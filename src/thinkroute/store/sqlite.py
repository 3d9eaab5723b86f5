"""`SqliteStore`: the decision log in one file, safe against crashes, written by one thread.

Write-ahead logging lets readers and other processes (`thinkroute explain`, `fit`) read while the gateway writes. What
is durable when is the writer's business; the schema and its versions are `database`'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Select, func, select, tuple_

from thinkroute.store.database import open_database
from thinkroute.store.record import DecisionRecord, FeedbackRecord, decode
from thinkroute.store.tables import DECISIONS, FEEDBACK
from thinkroute.store.writer import Writer

_PAGE_RECORDS = 500


class SqliteStore:
    """A `Store` in a SQLite file."""

    def __init__(self, path: Path | str, max_pending: int = 10_000) -> None:
        """Open the file, creating or upgrading it.

        Args:
            path: The file; its folder must exist.
            max_pending: Records that may wait for the disk; more are dropped and counted.

        Raises:
            ConfigError: the file cannot be opened, is not a decision log, or was written by a newer thinkroute.
        """
        self._engine = open_database(Path(path))
        self._writer = Writer(self._engine, max_pending)
        self._closed = False

    @property
    def dropped(self) -> int:
        """Records lost because the queue was full, or because they could not be written."""
        return self._writer.dropped

    def put(self, record: DecisionRecord) -> None:
        """Queue a record for the writer."""
        self._writer.put(record)

    def get(self, decision_id: str) -> DecisionRecord | None:
        """The record of this id with its feedback, queued ones included."""
        queued = self._writer.unwritten(decision_id)
        if queued is not None:
            return queued
        return self._one(select(DECISIONS).where(DECISIONS.c.decision_id == decision_id))

    def newest(self) -> DecisionRecord | None:
        """The latest record by creation time, once everything queued is written."""
        self.flush()
        return self._one(
            select(DECISIONS).order_by(DECISIONS.c.created_at.desc(), DECISIONS.c.decision_id.desc())
        )

    def add_feedback(self, decision_id: str, feedback: FeedbackRecord) -> None:
        """Join a grade to a decision, replacing an earlier one of the same source; durable when it returns.

        Raises:
            UnknownDecision: no such decision.
            DataError: the disk failed.
        """
        self._writer.grade(decision_id, feedback)

    def spend_usd(self, since_s: float, key_id: str | None = None) -> float:
        """Dollars of all decisions made since this time, queued ones included."""
        self.flush()
        spent = select(func.coalesce(func.sum(DECISIONS.c.cost_usd), 0.0)).where(
            DECISIONS.c.created_at >= since_s
        )
        if key_id is not None:
            spent = spent.where(DECISIONS.c.key_id == key_id)
        with self._engine.connect() as connection:
            return float(connection.execute(spent).scalar_one())

    def iter_records(
        self, since_s: float | None = None, until_s: float | None = None, key_id: str | None = None
    ) -> Iterator[DecisionRecord]:
        """Records with their feedback, oldest first, read page by page."""
        self.flush()
        wanted = (
            select(DECISIONS).order_by(DECISIONS.c.created_at, DECISIONS.c.decision_id).limit(_PAGE_RECORDS)
        )
        if since_s is not None:
            wanted = wanted.where(DECISIONS.c.created_at >= since_s)
        if until_s is not None:
            wanted = wanted.where(DECISIONS.c.created_at < until_s)
        if key_id is not None:
            wanted = wanted.where(DECISIONS.c.key_id == key_id)
        return self._pages(wanted)

    def flush(self) -> None:
        """Wait until everything put so far is committed.

        Raises:
            DataError: the disk failed.
        """
        self._writer.wait_written()

    def close(self) -> None:
        """Write what is queued and close the file.

        Raises:
            DataError: the disk failed, and records were lost.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._writer.close()
        finally:
            self._engine.dispose()

    def _one(self, wanted: Select[Any]) -> DecisionRecord | None:
        found = self._read(wanted.limit(1))
        return found[0] if found else None

    def _pages(self, wanted: Select[Any]) -> Iterator[DecisionRecord]:
        place = tuple_(DECISIONS.c.created_at, DECISIONS.c.decision_id)
        page = self._read(wanted)
        while page:
            yield from page
            last = page[-1]
            page = self._read(wanted.where(place > (last.created_at, last.decision_id)))

    def _read(self, wanted: Select[Any]) -> list[DecisionRecord]:
        with self._engine.connect() as connection:
            rows = connection.execute(wanted).all()
            ids = [row.decision_id for row in rows]
            grades = connection.execute(
                select(FEEDBACK).where(FEEDBACK.c.decision_id.in_(ids)).order_by(FEEDBACK.c.created_at)
            ).all()
        feedback: defaultdict[str, tuple[FeedbackRecord, ...]] = defaultdict(tuple)
        for row in grades:
            grade = FeedbackRecord(
                score=row.score, source=row.source, comment=row.comment, created_at=row.created_at
            )
            feedback[row.decision_id] += (grade,)
        return [decode(row.record, feedback[row.decision_id]) for row in rows]
