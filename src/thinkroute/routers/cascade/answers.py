"""An outcome table whose cells carry what the answers said of themselves.

Owns the pairing of table and features and what a stage costs; files are `thinkroute.evaluation.cascade_files`.
Shape letters: Q queries, A arms, F features, M parts of a cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from thinkroute.errors import DataError
from thinkroute.routers.cascade.features import FEATURES
from thinkroute.routers.table import FloatArray, Measure, OutcomeTable

COST_PARTS: Final[tuple[Measure, ...]] = ("cost_usd", "latency_s")
"""The parts of a stage's cost, in the order of every cost vector."""


@dataclass(frozen=True)
class Answers:
    """Outcomes and answer features of the same queries and arms."""

    table: OutcomeTable
    feature_QAF: FloatArray
    """In the order of `FEATURES`, NaN where unknown."""

    def __post_init__(self) -> None:
        expected = (len(self.table), len(self.table.arms), len(FEATURES))
        if self.feature_QAF.shape != expected:
            raise DataError(f"answer features have shape {self.feature_QAF.shape}, expected {expected}")

    def of(self, stages: Sequence[str]) -> Answers:
        """Only these arms, in this order.

        Raises:
            DataError: an arm is not in the table, or has no dollars.
        """
        missing = [stage for stage in stages if stage not in self.table.arms]
        if missing:
            raise DataError(f"no outcomes of {missing[0]!r}; the table has {', '.join(self.table.arms)}")
        columns = [self.table.arms.index(stage) for stage in stages]
        table = self.table.select_arms(stages)
        if "cost_usd" not in table.measures:
            raise DataError("a cascade weighs answers against dollars, and the table has none: set prices")
        return Answers(table, self.feature_QAF[:, columns])

    def rows(self, rows: Sequence[int]) -> Answers:
        """Only these queries, in this order."""
        return Answers(self.table.take(rows), self.feature_QAF[list(rows)])

    @property
    def cost_QAM(self) -> FloatArray:
        """What every cell cost, in parts; a part nothing is known of is 0."""
        empty = np.zeros_like(self.table.quality_QA)
        parts = [self.table.measured.get(measure, empty) for measure in COST_PARTS]
        return np.stack([parts[0], np.nan_to_num(parts[1])], axis=2)
