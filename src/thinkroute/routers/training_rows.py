"""The rows a router trained by gradient descent learns from, and how they are parted.

Owns three habits: arms are put in the order of their names, so that equal outcomes give equal training however their
columns are arranged; queries without a grade are left out; and queries of equal text never stand on both sides of a
fold. Shape letters: R rows with a grade, M measures, A arms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.routers.base import ArmStatistics
from thinkroute.routers.table import FloatArray, OutcomeTable

IntArray = NDArray[np.intp]

FEWEST: Final = 10
"""With fewer rows nothing is held out, and a router stays with the averages of its arms."""


@dataclass(frozen=True)
class Fold:
    """What one model is trained on, and what it is judged by."""

    train: IntArray
    held_out: IntArray


@dataclass(frozen=True)
class TrainingRows:
    """Graded rows of a table, arms in the order of their names."""

    statistics: ArmStatistics
    texts: tuple[str, ...]
    tasks: tuple[str | None, ...]
    cells_RMA: FloatArray

    @classmethod
    def of(cls, table: OutcomeTable) -> TrainingRows:
        """Rows of a table.

        Raises:
            DataError: the table has no graded cell at all.
        """
        ordered = table.select_arms(sorted(table.arms))
        statistics = replace(ArmStatistics.of(ordered), data_hash=table.digest())
        cells_QMA = statistics.training_cells(ordered)
        rows = np.flatnonzero((~np.isnan(cells_QMA[:, 0])).any(axis=1))
        return cls(
            statistics,
            tuple(table.texts[int(row)] for row in rows),
            tuple(table.tasks[int(row)] for row in rows),
            cells_QMA[rows],
        )

    @property
    def quality_RA(self) -> FloatArray:
        """Scores in [0, 1], NaN where not measured."""
        return self.cells_RMA[:, 0]

    def folds(self, count: int, seed: int, *, share: float = 0.2) -> list[Fold]:
        """Parts for `count` models, each held out once; one model holds out `share` of the texts.

        With fewer than `FEWEST` different texts there is one fold, which holds nothing out.
        """
        number: dict[str, int] = {}
        group_R = np.array([number.setdefault(text.strip().casefold(), len(number)) for text in self.texts])
        every = np.arange(len(self.texts))
        if len(number) < FEWEST:
            return [Fold(every, every[:0])]
        place_G = np.random.default_rng(seed).permutation(len(number))
        if count == 1:
            held_R = place_G[group_R] < max(round(share * len(number)), 1)
            return [Fold(every[~held_R], every[held_R])]
        part_R = place_G[group_R] % count
        return [Fold(every[part_R != k], every[part_R == k]) for k in range(count)]
