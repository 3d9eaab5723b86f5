"""Outcome tables with answer features, on disk: the same Parquet file, with further columns.

`answer.<feature>` holds each feature, `samples.cost_usd` and `samples.tokens` what the further samples took. Readers that
know nothing of them read the table as any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from thinkroute.errors import DataError
from thinkroute.evaluation.collect import Collected
from thinkroute.evaluation.outcomes import read_outcomes, write_outcomes
from thinkroute.evaluation.parquet import read_columns
from thinkroute.routers.cascade.answers import Answers
from thinkroute.routers.cascade.features import FEATURES
from thinkroute.routers.table import FloatArray, OutcomeTable

_SAMPLES: Final = ("samples_cost_usd", "samples_tokens")
_COLUMNS: Final = (*(f"answer.{name}" for name in FEATURES), "samples.cost_usd", "samples.tokens")


def answers_of(collected: Collected) -> Answers:
    """The table of a run with the features its answers came with."""
    table = collected.table
    cells = np.full((len(table), len(table.arms), len(_COLUMNS)), np.nan)
    row_of = {query_id: row for row, query_id in enumerate(table.query_ids)}
    column_of = {arm: column for column, arm in enumerate(table.arms)}
    for (query_id, arm), features in collected.features.items():
        if query_id in row_of and arm in column_of:
            values = [features.get(name, np.nan) for name in (*FEATURES, *_SAMPLES)]
            cells[row_of[query_id], column_of[arm]] = values
    return _answers(collected.table, cells)


def write_answers(answers: Answers, path: Path) -> None:
    """Write a table with its features."""
    matrices = [*np.moveaxis(answers.feature_QAF, 2, 0), answers.sample_cost_usd_QA, answers.sample_tokens_QA]
    columns = {name: matrix for name, matrix in zip(_COLUMNS, matrices, strict=True) if matrix is not None}
    write_outcomes(answers.table, path, columns)


def read_answers(path: Path) -> Answers:
    """Read a table with its features.

    Raises:
        DataError: as `read_outcomes`, or the file holds no features.
    """
    table, file = read_outcomes(path), read_columns(path)
    if not any(name in file for name in _COLUMNS):
        raise DataError(f"{path} holds no answer features: collect with --features")
    row_of = {query_id: row for row, query_id in enumerate(table.query_ids)}
    column_of = {arm: column for column, arm in enumerate(table.arms)}
    cells = np.full((len(table), len(table.arms), len(_COLUMNS)), np.nan)
    places = [
        (line, row_of[query_id], column_of[arm])
        for line, (query_id, arm) in enumerate(
            zip(file.strings("query_id"), file.strings("arm_id"), strict=True)
        )
        if query_id is not None and arm is not None
    ]
    lines, rows, arms = (list(part) for part in zip(*places, strict=True)) if places else ([], [], [])
    for number, name in enumerate(_COLUMNS):
        cells[rows, arms, number] = file.numbers(name)[lines]
    return _answers(table, cells)


def _answers(table: OutcomeTable, cells: FloatArray) -> Answers:
    extra = [None if np.isnan(cells[:, :, place]).all() else cells[:, :, place] for place in (-2, -1)]
    return Answers(table, cells[:, :, : len(FEATURES)], *extra)
