"""Public routing data sets and how each becomes an outcome table. One module per data set.

`DATASETS` is the table; looking a name up imports its module. Data itself is never part of this package: a folder
is passed in, or found under the directory named by the environment variable THINKROUTE_DATA.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Final

from thinkroute.errors import ConfigError, DataError
from thinkroute.evaluation.datasets.source import DataSet
from thinkroute.evaluation.outcomes import read_outcomes
from thinkroute.routers.table import OutcomeTable

DATA_VARIABLE: Final = "THINKROUTE_DATA"

DATASETS: Final = (
    "llmrouter-9llm",
    "routerbench-11llm",
    "routerdc-7llm",
    "routellm-mmlu",
    "routellm-mtbench",
    "routerarena-sub10",
    "bigmath-solverate",
    "gsm8k-anytime-4budget",
)
"""Names of data sets; also the names of their folders."""


def dataset(name: str) -> DataSet:
    """The data set called `name`.

    Raises:
        ConfigError: no data set of that name; the message lists the known ones.
    """
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}: use one of {', '.join(DATASETS)}")
    module = import_module(f"thinkroute.evaluation.datasets.{name.replace('-', '_')}")
    found: DataSet = module.DATASET
    return found


def data_root(directory: Path | None) -> Path | None:
    """The directory that holds the data sets' folders: the argument, else THINKROUTE_DATA, else None."""
    if directory is not None:
        return directory
    named = os.environ.get(DATA_VARIABLE)
    return Path(named) if named else None


def convert(name: str, folder: Path) -> OutcomeTable:
    """The outcome table of a data set whose files lie in `folder`.

    Raises:
        ConfigError: no data set of that name.
        DataError: a file is missing or holds something unexpected; the message names file, row and column.
    """
    found = dataset(name)
    if not folder.is_dir():
        fix = (
            f"get it with `thinkroute data fetch {name}`"
            if found.remote
            else f"put its files there ({found.source}; docs/evaluation.md lists them)"
        )
        raise DataError(f"{folder}: no such folder for data set {name}; {fix}")
    return found.convert(folder)


def load_table(reference: str, directory: Path | None = None) -> OutcomeTable:
    """The outcome table of a Parquet file, or of a data set named in `DATASETS` and lying under `data_root`.

    Raises:
        DataError: there is no such file, the data set's folder is missing, or its content is wrong.
    """
    if reference not in DATASETS:
        if not Path(reference).suffix and not Path(reference).exists():
            raise DataError(f"{reference!r} is neither a file nor one of the data sets {', '.join(DATASETS)}")
        return read_outcomes(reference)
    root = data_root(directory)
    if root is None:
        raise DataError(
            f"data set {reference}: where does it lie? Give --data, set {DATA_VARIABLE}, or name a Parquet file"
        )
    return convert(reference, root / reference)
