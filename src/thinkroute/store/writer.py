"""The one thread that writes the decision log: batches of records, and grades that somebody waits for.

Owns: the queue between request handlers and the disk, its bound, and what happens when the disk fails. Does not own the
tables' meaning.

Invariants: `put` never waits for the disk; a batch is one transaction; what could not be written is retried, up to the
bound, and counted when it is lost; `wait_written` and `grade` return only after a commit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, select
from sqlalchemy.dialects.sqlite import insert

from thinkroute.errors import DataError, UnknownDecision
from thinkroute.store.record import DecisionRecord, FeedbackRecord, encode
from thinkroute.store.tables import DECISIONS, FEEDBACK

logger = logging.getLogger(__name__)

_LINGER_S = 0.05
"""Longest time a record waits for company."""
_BATCH_RECORDS = 256
_RETRY_S = 1.0
_LOG_EVERY_LOST = 1000


@dataclass(slots=True)
class _Grade:
    decision_id: str
    feedback: FeedbackRecord
    done: Future[None] = field(default_factory=Future[None])


class Writer:
    """A queue and the thread that empties it."""

    def __init__(self, engine: Engine, max_pending: int) -> None:
        self._engine = engine
        self._max_pending = max_pending
        self._wake = threading.Condition()
        self._pending: dict[str, DecisionRecord] = {}
        self._writing: dict[str, DecisionRecord] = {}
        self._grades: list[_Grade] = []
        self._writing_grades: list[_Grade] = []
        self._waiting: list[Future[None]] = []
        self._writing_for: list[Future[None]] = []
        self._closing = False
        self._last_try = False
        """Whether the batch being written was taken after closing: if it fails, there is no further try."""
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="thinkroute-decision-log", daemon=True)
        self._thread.start()

    def put(self, record: DecisionRecord) -> None:
        """Queue a record; drop it, counted, when the queue is full or closed."""
        with self._wake:
            if self._closing or len(self._pending) + len(self._writing) >= self._max_pending:
                self._lose(1, "the log is closed" if self._closing else "the queue is full")
                return
            self._pending.setdefault(record.decision_id, record)
            if len(self._pending) in (1, _BATCH_RECORDS):
                self._wake.notify_all()

    def unwritten(self, decision_id: str) -> DecisionRecord | None:
        """A record that is queued or being written."""
        with self._wake:
            return self._pending.get(decision_id) or self._writing.get(decision_id)

    def grade(self, decision_id: str, feedback: FeedbackRecord) -> None:
        """Write a grade and wait for it.

        Raises:
            UnknownDecision: neither the file nor the queue has the decision.
            DataError: the disk failed, or the log is closed.
        """
        grade = _Grade(decision_id, feedback)
        with self._asking():
            self._grades.append(grade)
        grade.done.result()

    def wait_written(self) -> None:
        """Wait until everything queued so far is committed.

        Raises:
            DataError: the disk failed and the records stay queued, or the log is closed.
        """
        done: Future[None] = Future()
        with self._asking():
            self._waiting.append(done)
        done.result()

    def close(self) -> None:
        """Write what is queued, then stop the thread.

        Raises:
            DataError: the disk failed, and the records still queued are lost.
        """
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join()
        if lost := len(self._pending):
            self._pending.clear()
            self._lose(lost, "the log was closed while the disk failed")
            raise DataError(f"{lost} decision records could not be written and are lost")

    @contextmanager
    def _asking(self) -> Generator[None, None, None]:
        with self._wake:
            if self._closing:
                raise DataError("the decision log is closed")
            yield
            self._wake.notify_all()

    def _run(self) -> None:
        while self._take():
            try:
                unknown = self._write()
            except Exception as failure:
                logger.exception("the decision log cannot be written; %d records wait", len(self._writing))
                if not self._put_back(failure):
                    return
            else:
                self._settle(unknown)

    def _take(self) -> bool:
        """Wait for work and move it to the writing side; False when closed and empty."""
        with self._wake:
            self._wake.wait_for(lambda: self._pending or self._urgent())
            self._wake.wait_for(self._urgent, timeout=_LINGER_S)
            self._writing, self._pending = self._pending, {}
            self._writing_grades, self._grades = self._grades, []
            self._writing_for, self._waiting = self._waiting, []
            self._last_try = self._closing
            return bool(self._writing or self._writing_grades or self._writing_for) or not self._closing

    def _urgent(self) -> bool:
        return bool(self._grades or self._waiting or self._closing or len(self._pending) >= _BATCH_RECORDS)

    def _write(self) -> set[str]:
        """Commit the batch; the decisions that grades named and nobody knows."""
        rows = [row for record in self._writing.values() if (row := self._row(record)) is not None]
        with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            if rows:
                connection.execute(insert(DECISIONS).on_conflict_do_nothing(), rows)
            return _write_grades(connection, self._writing_grades)

    def _row(self, record: DecisionRecord) -> dict[str, Any] | None:
        try:
            text = encode(record).decode()
        except (UnicodeError, TypeError, ValueError) as error:
            with self._wake:
                self._lose(1, f"record {record.decision_id!r} cannot be written as JSON: {error}")
            return None
        return {
            "decision_id": record.decision_id,
            "created_at": record.created_at,
            "key_id": record.key_id,
            "arm_id": record.arm_id,
            "status": record.status,
            "cost_usd": record.spent_usd,
            "schema_version": record.schema_version,
            "record": text,
        }

    def _settle(self, unknown: set[str]) -> None:
        with self._wake:
            self._writing = {}
        for grade in self._writing_grades:
            if grade.decision_id in unknown:
                message = f"no decision {grade.decision_id!r} in the log"
                grade.done.set_exception(UnknownDecision(message, param="decision_id"))
            else:
                grade.done.set_result(None)
        for done in self._writing_for:
            done.set_result(None)

    def _put_back(self, failure: Exception) -> bool:
        """Queue the batch again and wait before the next try; False after the try that closing makes."""
        error = DataError(f"the decision log cannot be written: {failure}")
        for done in (*(grade.done for grade in self._writing_grades), *self._writing_for):
            done.set_exception(error)
        with self._wake:
            self._pending = {**self._writing, **self._pending}
            self._writing = {}
            if self._last_try:
                self._refuse(error)
                return False
            self._wake.wait_for(lambda: self._closing, timeout=_RETRY_S)
            return True

    def _refuse(self, error: DataError) -> None:
        """Answer everybody who still waits; the thread is about to end."""
        for done in (*(grade.done for grade in self._grades), *self._waiting):
            done.set_exception(error)
        self._grades, self._waiting = [], []

    def _lose(self, records: int, why: str) -> None:
        """Count lost records; the log hears of the first and then of every thousandth."""
        before, self.dropped = self.dropped, self.dropped + records
        if before // _LOG_EVERY_LOST != self.dropped // _LOG_EVERY_LOST or before == 0:
            logger.error("decision records were lost (%d so far): %s", self.dropped, why)


def _write_grades(connection: Connection, grades: Sequence[_Grade]) -> set[str]:
    named = {grade.decision_id for grade in grades}
    if not named:
        return named
    known = set(
        connection.execute(
            select(DECISIONS.c.decision_id).where(DECISIONS.c.decision_id.in_(named))
        ).scalars()
    )
    for grade in grades:
        if grade.decision_id in known:
            given = grade.feedback
            values = {"score": given.score, "comment": given.comment, "created_at": given.created_at}
            statement = insert(FEEDBACK).values(decision_id=grade.decision_id, source=given.source, **values)
            connection.execute(
                statement.on_conflict_do_update(index_elements=["decision_id", "source"], set_=values)
            )
    return named - known
