"""An outcome table whose cells carry what the answers said of themselves.

Owns the pairing of table and features and what a stage costs; files are `thinkroute.evaluation.cascade_files`.
Shape letters: Q queries, A arms, F features, M parts of a cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    sample_cost_usd_QA: FloatArray | None = None
    """Dollars of the further samples that `agreement` is made of; they are not in the table's cost."""
    sample_tokens_QA: FloatArray | None = None
    """Tokens generated for them."""

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
        return Answers(
            table,
            self.feature_QAF[:, columns],
            None if self.sample_cost_usd_QA is None else self.sample_cost_usd_QA[:, columns],
            None if self.sample_tokens_QA is None else self.sample_tokens_QA[:, columns],
        )

    def sampling(self, samples: Mapping[str, int]) -> Answers:
        """As if samples were drawn of these arms only: their price is in the table's, others have no `agreement`."""
        drawn_A = np.array([samples.get(arm, 0) > 0 for arm in self.table.arms])
        feature_QAF = self.feature_QAF.copy()
        feature_QAF[:, ~drawn_A, FEATURES.index("agreement")] = np.nan
        table = self.table
        added: Mapping[Measure, FloatArray | None] = {
            "cost_usd": self.sample_cost_usd_QA,
            "answer_tokens": self.sample_tokens_QA,
        }
        measured = dict(table.measured)
        for measure, extra_QA in added.items():
            if extra_QA is not None and measure in measured:
                measured[measure] = measured[measure] + np.where(drawn_A, np.nan_to_num(extra_QA), 0.0)
        return Answers(replace(table, measured=measured), feature_QAF)

    def rows(self, rows: Sequence[int]) -> Answers:
        """Only these queries, in this order."""
        index = list(rows)
        return Answers(
            self.table.take(index),
            self.feature_QAF[index],
            None if self.sample_cost_usd_QA is None else self.sample_cost_usd_QA[index],
            None if self.sample_tokens_QA is None else self.sample_tokens_QA[index],
        )

    @property
    def cost_QAM(self) -> FloatArray:
        """What every cell cost, in parts; a part nothing is known of is 0."""
        empty = np.zeros_like(self.table.quality_QA)
        parts = [self.table.measured.get(measure, empty) for measure in COST_PARTS]
        return np.stack([parts[0], np.nan_to_num(parts[1])], axis=2)
