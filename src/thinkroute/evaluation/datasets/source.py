"""What the converters share: reading rows without surprises, and building tables from wide or long rows.

Rows are read as text and an empty field is missing. No reader here guesses types: "None", "NA" and "nan" are answers
of real questions and stay text.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from thinkroute.errors import DataError
from thinkroute.routers.table import FloatArray, Measure, OutcomeTable

_FIELD_LIMIT = 16 * 1024 * 1024
T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a public hub."""

    url: str
    """Pinned to a commit, so that the content cannot change."""
    name: str
    """File name in the data set's folder."""
    sha256: str | None = None
    """None where it was never computed; then the digest found is reported, not checked."""


@dataclass(frozen=True)
class DataSet:
    """One public data set."""

    name: str
    title: str
    licence: str
    source: str
    convert: Callable[[Path], OutcomeTable]
    """Folder to outcome table."""
    remote: tuple[RemoteFile, ...] = ()
    """Files that `thinkroute data fetch` can download; empty when none is published in a usable form."""


@dataclass(frozen=True)
class Row:
    """One row of a file, which knows where it came from."""

    path: Path
    line: int
    """Number of the record, the first after the header is 1."""
    fields: Mapping[str, str]

    def text(self, column: str) -> str:
        """A field that must be there and not empty."""
        value = self.fields.get(column)
        if not value:
            raise DataError(f"{self.path}: row {self.line}: column {column!r} is missing or empty")
        return value

    def number(self, column: str) -> float:
        """A number, NaN where the field is empty."""
        value = self.fields.get(column, "")
        if value == "":
            return float("nan")
        return self._parsed(column, value, float, "a number")

    def truth(self, column: str) -> float:
        """1.0 for True, 0.0 for False, NaN where the field is empty."""
        value = self.fields.get(column, "")
        known = {"True": 1.0, "False": 0.0, "": float("nan")}
        return self._parsed(column, value, known.__getitem__, "True or False")

    def _parsed(self, column: str, value: str, parse: Callable[[str], T], wanted: str) -> T:
        try:
            return parse(value)
        except (ValueError, KeyError) as error:
            raise DataError(
                f"{self.path}: row {self.line}: column {column!r} is {value!r}, not {wanted}"
            ) from error


@dataclass
class Cells:
    """Collects cells of a table whose file has one row per query and arm."""

    texts: dict[str, str] = field(default_factory=dict[str, str])
    tasks: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    cells: dict[tuple[str, str], dict[Measure, float]] = field(
        default_factory=dict[tuple[str, str], dict[Measure, float]]
    )
    finish: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def table(self, notes: Mapping[str, str]) -> OutcomeTable:
        """Everything collected, arms sorted by first appearance."""
        arms = tuple(dict.fromkeys(arm for _, arm in self.cells))
        shape = len(self.texts), len(arms)
        row_of = {query: row for row, query in enumerate(self.texts)}
        column_of = {arm: column for column, arm in enumerate(arms)}
        measured: dict[Measure, FloatArray] = {}
        finish_QA = np.full(shape, "", dtype="U16")
        for (query, arm), values in self.cells.items():
            at = row_of[query], column_of[arm]
            finish_QA[at] = self.finish.get((query, arm), "")
            for measure, value in values.items():
                measured.setdefault(measure, np.full(shape, np.nan))[at] = value
        return OutcomeTable(
            query_ids=tuple(self.texts),
            texts=tuple(self.texts.values()),
            arms=arms,
            measured=measured,
            tasks=tuple(self.tasks.get(query) for query in self.texts),
            finish_QA=finish_QA if (finish_QA != "").any() else None,
            notes=notes,
        )


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a CSV or JSON-lines file, gzipped or not, by its name.

    Raises:
        DataError: the file is missing, damaged or has a row of the wrong width.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    parse = _json_rows if ".jsonl" in path.suffixes else _csv_rows
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        yield from parse(path, raw.decode("utf-8"))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not readable: {error}") from error


def first_file(folder: Path, *names: str) -> Path:
    """The first of these files that is in the folder.

    Raises:
        DataError: none is.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: none of {', '.join(names)} is there")


def model_columns(path: Path, header: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The header's columns that are models: all but the known ones.

    Raises:
        DataError: a known column is absent, or no model is left.
    """
    absent = [name for name in known if name not in header]
    models = tuple(name for name in header if name not in known)
    if absent or not models:
        raise DataError(f"{path}: column {absent[0]!r} is missing" if absent else f"{path}: no model column")
    return models


def wide_table(
    rows: Sequence[Row],
    *,
    arms: Sequence[str],
    ids: Sequence[str],
    texts: Sequence[str],
    tasks: Sequence[str | None],
    measured: Mapping[Measure, Callable[[Row, str], float]],
    notes: Mapping[str, str],
) -> OutcomeTable:
    """A table of a file with one row per query and one column per arm: `measured` reads each cell."""
    return OutcomeTable(
        query_ids=tuple(ids),
        texts=tuple(texts),
        arms=tuple(arms),
        measured={
            measure: np.array([[read(row, arm) for arm in arms] for row in rows], dtype=np.float64).reshape(
                len(rows), len(arms)
            )
            for measure, read in measured.items()
        },
        tasks=tuple(tasks),
        notes=notes,
    )


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    # Answers of models run to hundreds of kilobytes; the module's default limit is 128 kB.
    csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for line, fields in enumerate(reader, start=1):
        if None in fields or None in fields.values():
            raise DataError(f"{path}: row {line}: has another number of fields than the header")
        yield Row(path, line, fields)


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    for line, raw in enumerate(text.splitlines(), start=1):
        if not raw.strip():
            continue
        record = json.loads(raw)
        if not isinstance(record, dict):
            raise DataError(f"{path}: row {line}: is not a JSON object")
        fields = cast("dict[str, object]", record)
        yield Row(path, line, {key: "" if value is None else str(value) for key, value in fields.items()})
