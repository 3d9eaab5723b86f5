"""Parquet files as columns of strings and numbers.

Owns all contact with pyarrow, which has no type information: what leaves this module is lists and NumPy arrays.
pyarrow is imported at the first call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError

Strings = Sequence[str | None]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """A file's columns, by name, and its metadata."""

    path: Path
    rows: int
    metadata: Mapping[str, str]
    _frame: Any

    def __contains__(self, name: str) -> bool:
        return name in self._frame.column_names

    def strings(self, name: str) -> Strings:
        """A column of strings, None where null. All null when the file lacks it.

        Raises:
            DataError: the column is of another type.
        """
        if name not in self:
            return [None] * self.rows
        kinds = import_module("pyarrow").types
        column = self._frame.column(name)
        if not (
            kinds.is_string(column.type) or kinds.is_large_string(column.type) or kinds.is_null(column.type)
        ):
            raise DataError(f"{self.path}: column {name!r} is {column.type}, expected strings")
        values: list[str | None] = column.to_pylist()
        return values

    def numbers(self, name: str) -> Numbers:
        """A column of numbers, NaN where null. All NaN when the file lacks it.

        Raises:
            DataError: the column is of another type.
        """
        if name not in self:
            return np.full(self.rows, np.nan)
        arrow = import_module("pyarrow")
        column = self._frame.column(name)
        tests = (arrow.types.is_floating, arrow.types.is_integer, arrow.types.is_boolean, arrow.types.is_null)
        if not any(test(column.type) for test in tests):
            raise DataError(f"{self.path}: column {name!r} is {column.type}, expected numbers")
        return np.asarray(column.cast(arrow.float64()).to_numpy(), dtype=np.float64)


def read_columns(path: Path) -> Columns:
    """Open a Parquet file.

    Raises:
        DataError: there is no such file, or it is not Parquet.
    """
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; make one with `thinkroute data convert` or `thinkroute collect`"
        )
    try:
        frame = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error
    raw: Mapping[bytes, bytes] = frame.schema.metadata or {}
    metadata = {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in raw.items()
    }
    return Columns(path, int(frame.num_rows), metadata, frame)


def write_columns(
    path: Path, columns: Mapping[str, Strings | Numbers], metadata: Mapping[str, str], order: Sequence[str]
) -> None:
    """Write columns in this order; NaN and None become null. An existing file is replaced in one step."""
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    arrays = {
        name: arrow.array(
            columns[name],
            arrow.float64() if isinstance(columns[name], np.ndarray) else arrow.string(),
            from_pandas=True,
        )
        for name in order
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    frame = arrow.table(arrays).replace_schema_metadata(dict(metadata))
    parquet.write_table(frame, unfinished, compression="zstd")
    unfinished.replace(path)
