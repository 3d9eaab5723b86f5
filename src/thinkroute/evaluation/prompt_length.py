"""The baseline that reads nothing but how long a prompt is.

Queries fall into bins of equal mass by the bytes of their text; an arm's numbers in a bin are its mean there, shrunk
towards its mean overall. On sets that mix tasks of different lengths this alone looks like routing, which is why every
router is shown beside it. It lives here and not among the routers because nobody should serve it.
"""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from thinkroute.routers.base import ArmStatistics, RouterState, TableRouter
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.types import Query

BINS: Final = 10
_PRIOR_WEIGHT: Final = 5.0
"""Rows that an arm's overall mean counts for in each bin."""


class PromptLengthRouter(TableRouter):
    """Means per arm and bin of prompt length."""

    name: ClassVar[str] = "prompt_length"

    def __init__(
        self, statistics: ArmStatistics, edge_E: FloatArray, moments: tuple[FloatArray, FloatArray]
    ) -> None:
        super().__init__(statistics)
        self._edge_E = edge_E
        self._mean_BMA, self._std_BMA = moments

    def state(self) -> RouterState:
        """Numbers of the bins; this router is not in the table of routers and is never loaded."""
        arrays = {"edge_E": self._edge_E, "mean_BMA": self._mean_BMA, "std_BMA": self._std_BMA}
        return RouterState(self.name, {}, self.statistics, arrays)

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        place = int(np.searchsorted(self._edge_E, _size(query.text), side="right"))
        return self._mean_BMA[place].copy(), self._std_BMA[place].copy()


def fit_prompt_length(table: OutcomeTable) -> PromptLengthRouter:
    """Means of the table's cells per bin of prompt length."""
    statistics = ArmStatistics.of(table)
    cells_QMA = statistics.training_cells(table)
    size_Q = np.array([_size(text) for text in table.texts], dtype=np.float64)
    edge_E = np.unique(np.quantile(size_Q, np.linspace(0, 1, BINS + 1)[1:-1]))
    bin_Q = np.searchsorted(edge_E, size_Q, side="right")
    shape = (len(edge_E) + 1, *statistics.mean_MA.shape)
    mean_BMA, std_BMA = np.empty(shape), np.empty(shape)
    for number in range(shape[0]):
        inside_QMA = cells_QMA[bin_Q == number]
        count_MA = (~np.isnan(inside_QMA)).sum(axis=0)
        total_MA = np.nansum(inside_QMA, axis=0) + _PRIOR_WEIGHT * statistics.mean_MA
        mean_BMA[number] = total_MA / (count_MA + _PRIOR_WEIGHT)
        std_BMA[number] = statistics.spread_MA / np.sqrt(count_MA + _PRIOR_WEIGHT)
    return PromptLengthRouter(statistics, edge_E, (mean_BMA, std_BMA))


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
