"""Big-Math's solve rates: the share of 64 roll-outs of Llama-3.1-8B that solved a problem. One arm, no dollars.

A one-arm table is a difficulty label: a router fitted on it predicts how hard a problem is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from thinkroute.evaluation.datasets.source import DataSet, Row, read_rows, wide_table
from thinkroute.routers.table import OutcomeTable

ARM: Final = "llama-3.1-8b"


def convert(folder: Path) -> OutcomeTable:
    """Read `bigmath_solverate.csv.gz`."""
    rows = list(read_rows(folder / "bigmath_solverate.csv.gz"))

    def solve_rate(row: Row, arm: str) -> float:
        return row.number("solve_rate")

    return wide_table(
        rows,
        arms=(ARM,),
        ids=[f"bigmath-{row.line}" for row in rows],
        texts=[row.text("instruction") for row in rows],
        tasks=[row.text("source") for row in rows],
        measured={"quality": solve_rate},
        notes={"source": DATASET.source, "licence": DATASET.licence, "cost_basis": "none"},
    )


DATASET: Final = DataSet(
    name="bigmath-solverate",
    title="mathematics problems with the share of 64 roll-outs that solved them",
    licence="upstream Big-Math: Apache-2.0; the copy used has no licence file",
    source="https://github.com/zhuchichi56/Co-Bench",
    convert=convert,
)
