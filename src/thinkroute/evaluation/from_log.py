"""The decision log as an outcome table: graded answers of real traffic, propensities kept.

A log holds one arm per question, so almost every cell of the matrix is missing. Records without text cannot teach a
router and are counted, not guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from thinkroute.errors import DataError
from thinkroute.routers.table import OutcomeTable, table_from_outcomes
from thinkroute.store import DecisionRecord, OutcomeRow, outcome_rows
from thinkroute.types import Outcome, Query, Usage


@dataclass(frozen=True)
class LogTable:
    """What a log gave."""

    table: OutcomeTable
    without_text: int
    """Graded answers left out because their question was not kept."""


def table_from_log(records: Iterable[DecisionRecord]) -> LogTable:
    """The graded answers of a log.

    Raises:
        DataError: there is none with its text.
    """
    graded = list(outcome_rows(records))
    rows = [row for row in graded if row["text"] is not None]
    if not rows:
        hint = (
            "their texts were not kept: set store.log_content: true"
            if graded
            else "send feedback to /v1/decisions/<id>/feedback first"
        )
        raise DataError(f"the log holds {len(graded)} graded answer(s) and none to learn from; {hint}")
    queries = {row["query_id"]: Query(text=row["text"] or "", task=row["task"]) for row in rows}
    table = table_from_outcomes(queries, map(_outcome, rows), {"source": "decision log"})
    row_of = {query_id: place for place, query_id in enumerate(table.query_ids)}
    column_of = {arm: place for place, arm in enumerate(table.arms)}
    propensity_QA = np.full((len(table), len(table.arms)), np.nan)
    for row in rows:
        # Of the arms that were not called, too: an estimate for another policy must know which could have been.
        known = {arm: propensity for arm, propensity in row["propensities"].items() if arm in column_of}
        if row["propensity"] is not None:
            known[row["arm_id"]] = row["propensity"]
        for arm, propensity in known.items():
            propensity_QA[row_of[row["query_id"]], column_of[arm]] = propensity
    return LogTable(replace(table, propensity_QA=propensity_QA), len(graded) - len(rows))


def _outcome(row: OutcomeRow) -> Outcome:
    return Outcome(
        query_id=row["query_id"],
        arm_id=row["arm_id"],
        quality=float("nan") if row["quality"] is None else row["quality"],
        usage=Usage(
            prompt_tokens=row["prompt_tokens"],
            completion_tokens=row["reasoning_tokens"] + row["answer_tokens"],
            reasoning_tokens=row["reasoning_tokens"],
            provenance=row["provenance"],
        ),
        cost_usd=row["cost_usd"],
        ttft_s=row["ttft_s"],
        latency_s=row["latency_s"],
        finish_reason=row["finish_reason"],
    )
