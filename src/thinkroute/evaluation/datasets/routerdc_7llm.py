"""RouterDC's own set: seven models of 7B to 8B on MMLU, CMMLU, GSM8K, ARC, HumanEval and MBPP. No dollars.

Two kinds of score. `probability` is the probability of the right option where that option was the model's first
choice, else 0: quality is 1 where it is above 0, which reproduces the paper's accuracies. `pass_rate` is the share of
sampled answers that were right, and is the quality itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from thinkroute.errors import DataError
from thinkroute.evaluation.datasets.source import DataSet, Row, model_columns, read_rows, wide_table
from thinkroute.routers.table import OutcomeTable

_COLUMNS: Final = ("dataset", "score_kind", "question", "cluster_id")


def convert(folder: Path) -> OutcomeTable:
    """Read `routerdc_train.csv.gz`."""
    path = folder / "routerdc_train.csv.gz"
    rows = list(read_rows(path))
    arms = model_columns(path, tuple(rows[0].fields) if rows else (), _COLUMNS)
    return wide_table(
        rows,
        arms=arms,
        ids=[f"routerdc-{row.line}" for row in rows],
        texts=[row.text("question") for row in rows],
        tasks=[_task(row.text("dataset")) for row in rows],
        measured={"quality": _quality},
        notes={"source": DATASET.source, "licence": DATASET.licence, "cost_basis": "none"},
    )


def _task(file: str) -> str:
    """The task a source file belongs to: `mmlu_test_dev30` and `mmlu_train` are one."""
    for ending in ("_train", "-train", "_test_dev30", "_test"):
        file = file.removesuffix(ending)
    return file


def _quality(row: Row, arm: str) -> float:
    score, kind = row.number(arm), row.text("score_kind")
    if kind == "pass_rate" or np.isnan(score):
        return score
    if kind != "probability":
        raise DataError(
            f"{row.path}: row {row.line}: column 'score_kind' is {kind!r}, not probability or pass_rate"
        )
    return float(score > 0)


DATASET: Final = DataSet(
    name="routerdc-7llm",
    title="7 tasks, 7 models of 7B to 8B, right or wrong",
    licence="no licence file",
    source="https://github.com/shuhao02/RouterDC",
    convert=convert,
)
