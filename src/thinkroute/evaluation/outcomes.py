"""Outcome tables on disk: Parquet in long form, one row per query and arm (docs/outcome-table.md).

Owns the file format and its checks; the table in memory is `thinkroute.routers.table.OutcomeTable`. A cell that
was not measured has no row, or a row with nulls; both read as missing. Every complaint names file, column and row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError
from thinkroute.evaluation.parquet import Columns, Numbers, Strings, read_columns, write_columns
from thinkroute.routers.table import MEASURES, ArmInfo, FloatArray, Measure, OutcomeTable

__all__ = ["COLUMNS", "SCHEMA_VERSION", "OutcomeTable", "concat", "read_outcomes", "write_outcomes"]

SCHEMA_VERSION: Final = 1
_VERSION_KEY, _NOTES_KEY, _ARMS_KEY = "thinkroute.outcomes.version", "thinkroute.notes", "thinkroute.arms"
_INFO_KEY: Final = "thinkroute.arm_info"
_REQUIRED: Final = ("query_id", "text", "arm_id", "quality")
_STRINGS: Final = ("query_id", "text", "task", "split", "arm_id", "finish_reason")
_NUMBERS: Final = (*MEASURES, "propensity", "weight")
COLUMNS: Final = (
    "query_id",
    "text",
    "task",
    "split",
    "arm_id",
    *MEASURES,
    "finish_reason",
    "propensity",
    "weight",
)
"""Columns in the order they are written."""

CellT = TypeVar("CellT", np.float64, np.str_)


def write_outcomes(table: OutcomeTable, path: Path, extra: Mapping[str, FloatArray] | None = None) -> None:
    """Write a table. Cells with nothing measured get no row; queries without any cell keep one row of nulls.

    `extra` holds further columns by name, shape (Q, A), NaN for null.
    """
    rows, arms = _cells_to_write(table)
    columns: dict[str, Strings | Numbers] = {
        "query_id": [table.query_ids[row] for row in rows],
        "text": [table.texts[row] for row in rows],
        "task": [table.tasks[row] for row in rows],
        "split": [table.splits[row] for row in rows],
        "arm_id": [table.arms[arm] if arm >= 0 else None for arm in arms],
        "weight": np.full(len(rows), np.nan) if table.weight_Q is None else table.weight_Q[rows],
    }
    finish_QA = np.full((len(table), len(table.arms)), "") if table.finish_QA is None else table.finish_QA
    columns["finish_reason"] = [str(finish_QA[r, a]) or None for r, a in zip(rows, arms, strict=True)]
    for name, matrix_QA in {**table.measured, "propensity": table.propensity_QA}.items():
        columns[name] = np.full(len(rows), np.nan) if matrix_QA is None else matrix_QA[rows, arms]
    columns |= {name: matrix_QA[rows, arms] for name, matrix_QA in (extra or {}).items()}
    for name in COLUMNS:
        columns.setdefault(name, np.full(len(rows), np.nan))
    metadata = {
        _VERSION_KEY: str(SCHEMA_VERSION),
        _NOTES_KEY: json.dumps(dict(table.notes), ensure_ascii=False, sort_keys=True),
        _ARMS_KEY: json.dumps(list(table.arms), ensure_ascii=False),
        _INFO_KEY: msgspec.json.encode(dict(table.arm_info)).decode(),
    }
    write_columns(path, columns, metadata, (*COLUMNS, *(extra or {})))


def read_outcomes(path: Path | str) -> OutcomeTable:
    """Read a table written by `write_outcomes` or by anyone who follows docs/outcome-table.md.

    Raises:
        DataError: the file is missing, not Parquet, of another schema version, or holds a wrong value.
    """
    file = read_columns(Path(path))
    version = file.metadata.get(_VERSION_KEY, str(SCHEMA_VERSION))
    if version != str(SCHEMA_VERSION):
        raise DataError(f"{path}: outcome table version {version}, this thinkroute reads {SCHEMA_VERSION}")
    missing = [name for name in _REQUIRED if name not in file]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing; docs/outcome-table.md lists the columns")
    return _arrange(
        file,
        {name: file.strings(name) for name in _STRINGS},
        {name: _checked(file, name) for name in _NUMBERS},
    )


def concat(tables: Sequence[OutcomeTable], names: Sequence[str] | None = None) -> OutcomeTable:
    """One table of several: rows below one another, arms united, cells missing where a table lacks an arm.

    Args:
        tables: At least one.
        names: Prefix for each table's query ids (`name/id`), needed when ids collide; None keeps them.
    """
    if not tables:
        raise DataError("nothing to concatenate: give at least one outcome table")
    arms = tuple(dict.fromkeys(arm for table in tables for arm in table.arms))
    wide = [_widen(table, arms) for table in tables]
    prefixes = [f"{name}/" for name in names] if names else [""] * len(tables)
    ids = [prefix + i for prefix, table in zip(prefixes, wide, strict=True) for i in table.query_ids]
    measures: list[Measure] = [m for m in MEASURES if any(m in table.measured for table in wide)]
    return OutcomeTable(
        query_ids=tuple(ids),
        texts=tuple(text for table in wide for text in table.texts),
        arms=arms,
        measured={m: np.concatenate([_matrix(table, m) for table in wide]) for m in measures},
        tasks=tuple(task for table in wide for task in table.tasks),
        splits=tuple(split for table in wide for split in table.splits),
        finish_QA=_stack([table.finish_QA for table in wide], wide, np.str_("")),
        propensity_QA=_stack([table.propensity_QA for table in wide], wide, np.float64(np.nan)),
        weight_Q=_concat_weights(wide),
        notes=_merged_notes(tables),
        arm_info={arm: info for table in reversed(tables) for arm, info in table.arm_info.items()},
    )


def _merged_notes(tables: Sequence[OutcomeTable]) -> dict[str, str]:
    keys = dict.fromkeys(key for table in tables for key in table.notes)
    return {key: "; ".join(dict.fromkeys(t.notes[key] for t in tables if key in t.notes)) for key in keys}


def _concat_weights(tables: Sequence[OutcomeTable]) -> FloatArray | None:
    if all(table.weight_Q is None for table in tables):
        return None
    return np.concatenate([np.ones(len(t)) if t.weight_Q is None else t.weight_Q for t in tables])


def _matrix(table: OutcomeTable, measure: Measure) -> FloatArray:
    empty = np.full((len(table), len(table.arms)), np.nan)
    return table.measured.get(measure, empty)


def _stack(
    matrices: Sequence[NDArray[CellT] | None], tables: Sequence[OutcomeTable], empty: CellT
) -> NDArray[CellT] | None:
    if all(matrix is None for matrix in matrices):
        return None
    shapes = [(len(table), len(table.arms)) for table in tables]
    return np.concatenate(
        [np.full(s, empty) if m is None else m for m, s in zip(matrices, shapes, strict=True)]
    )


def _widen(table: OutcomeTable, arms: tuple[str, ...]) -> OutcomeTable:
    columns = [arms.index(arm) for arm in table.arms]

    def spread(matrix: NDArray[CellT], empty: CellT) -> NDArray[CellT]:
        wide = np.full((len(table), len(arms)), empty, dtype=matrix.dtype)
        wide[:, columns] = matrix
        return wide

    nothing = np.float64(np.nan)
    return replace(
        table,
        arms=arms,
        measured={m: spread(matrix, nothing) for m, matrix in table.measured.items()},
        finish_QA=None if table.finish_QA is None else spread(table.finish_QA, np.str_("")),
        propensity_QA=None if table.propensity_QA is None else spread(table.propensity_QA, nothing),
    )


def _cells_to_write(table: OutcomeTable) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and arm index of every line of the file; arm −1 keeps a query that has no cell.

    Index −1 reads the last arm's cell, which is missing too in such a row.
    """
    measured_QA = np.zeros((len(table), len(table.arms)), dtype=np.bool_)
    for matrix in table.measured.values():
        measured_QA |= ~np.isnan(matrix)
    if table.finish_QA is not None:
        measured_QA |= table.finish_QA != ""
    if table.propensity_QA is not None:
        # What was not called has no outcome, but how likely it was belongs to the log.
        measured_QA |= ~np.isnan(table.propensity_QA)
    rows, arms = np.nonzero(measured_QA)
    bare = np.flatnonzero(~measured_QA.any(axis=1))
    rows, arms = np.concatenate([rows, bare]), np.concatenate([arms, np.full(len(bare), -1)])
    order = np.lexsort((arms, rows))
    return rows[order], arms[order]


def _checked(file: Columns, name: str) -> FloatArray:
    values = file.numbers(name)
    high = 1.0 if name in ("quality", "propensity") else np.inf
    bad = np.flatnonzero((values < 0) | (values > high) | np.isinf(values))
    if bad.size:
        allowed = "in [0, 1]" if high == 1 else "finite and >= 0"
        raise DataError(f"{file.path}: column {name!r}, row {bad[0]}: {values[bad[0]]} must be {allowed}")
    return values


def _arrange(
    file: Columns, strings: Mapping[str, Strings], numbers: Mapping[str, FloatArray]
) -> OutcomeTable:
    path = file.path
    first_line = _first_lines(path, strings)
    row_of = {query_id: row for row, query_id in enumerate(first_line)}
    arms = _arms(path, strings["arm_id"], file.metadata.get(_ARMS_KEY, "[]"))
    column_of = {arm: column for column, arm in enumerate(arms)}
    lines, rows, columns = _places(path, strings, row_of, column_of)
    shape = len(row_of), len(arms)

    def matrix(values: FloatArray) -> FloatArray:
        cells = np.full(shape, np.nan)
        cells[rows, columns] = values[lines]
        return cells

    finish_QA = np.full(shape, "", dtype="U16")
    finish_QA[rows, columns] = [strings["finish_reason"][line] or "" for line in lines]
    firsts = list(first_line.values())
    weight_Q = numbers["weight"][firsts]
    return OutcomeTable(
        query_ids=tuple(first_line),
        texts=tuple(strings["text"][line] or "" for line in firsts),
        arms=arms,
        measured={
            m: matrix(numbers[m]) for m in MEASURES if m == "quality" or not np.isnan(numbers[m]).all()
        },
        tasks=tuple(strings["task"][line] for line in firsts),
        splits=tuple(strings["split"][line] for line in firsts),
        finish_QA=finish_QA if (finish_QA != "").any() else None,
        propensity_QA=None if np.isnan(numbers["propensity"]).all() else matrix(numbers["propensity"]),
        weight_Q=None if np.isnan(weight_Q).all() else np.nan_to_num(weight_Q, nan=1.0),
        notes=json.loads(file.metadata.get(_NOTES_KEY, "{}")),
        arm_info=_arm_info(path, file.metadata.get(_INFO_KEY, "{}")),
    )


def _arm_info(path: Path, raw: str) -> dict[str, ArmInfo]:
    try:
        return msgspec.json.decode(raw, type=dict[str, ArmInfo])
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise DataError(f"{path}: metadata {_INFO_KEY!r} is not readable: {error}") from error


def _first_lines(path: Path, strings: Mapping[str, Strings]) -> dict[str, int]:
    """First line of each query; what belongs to the query must not change between its lines."""
    first: dict[str, int] = {}
    for line, query_id in enumerate(strings["query_id"]):
        if query_id is None:
            raise DataError(f"{path}: column 'query_id', row {line}: is null")
        start = first.setdefault(query_id, line)
        for name in ("text", "task", "split"):
            if strings[name][line] != strings[name][start]:
                raise DataError(
                    f"{path}: column {name!r}, row {line}: differs from row {start} of the same query {query_id!r}"
                )
    return first


def _arms(path: Path, arm_ids: Strings, declaration: str) -> tuple[str, ...]:
    """Declared order of the arms, then any others in order of appearance."""
    declared = cast("list[str]", json.loads(declaration))
    arms = tuple(dict.fromkeys([*declared, *(arm for arm in arm_ids if arm is not None)]))
    if not arms:
        raise DataError(f"{path}: column 'arm_id': no arm in the whole file")
    return arms


def _places(
    path: Path,
    strings: Mapping[str, Strings],
    row_of: Mapping[str, int],
    column_of: Mapping[str, int],
) -> tuple[list[int], list[int], list[int]]:
    """Line, row and column of every cell in the file."""
    seen: dict[tuple[int, int], int] = {}
    for line, (query_id, arm) in enumerate(zip(strings["query_id"], strings["arm_id"], strict=True)):
        if query_id is None or arm is None:
            continue
        cell = row_of[query_id], column_of[arm]
        if cell in seen:
            raise DataError(
                f"{path}: row {line}: query {query_id!r} and arm {arm!r} stand already in row {seen[cell]}"
            )
        seen[cell] = line
    return list(seen.values()), [row for row, _ in seen], [column for _, column in seen]
