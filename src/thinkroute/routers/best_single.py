"""Always the arm with the best average quality on the training outcomes, whatever the price.

The line to beat in quality. Its predictions are made so that any policy picks that arm: the others are declared to
have quality 0 with the widest uncertainty, which means "this router never recommends it", not a measurement.
Ties go to the cheaper arm, then to the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np

from thinkroute.routers.base import PRIOR_QUALITY_STD, ArmStatistics, RouterKind, RouterState, TableRouter
from thinkroute.routers.settings import no_settings
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.signals.base import Encoder, Scalar
from thinkroute.types import Query


class BestSingleRouter(TableRouter):
    """Recommends one arm only."""

    name: ClassVar[str] = "best_single"

    def __init__(self, statistics: ArmStatistics) -> None:
        super().__init__(statistics)
        self.best = best_single_arm(statistics)
        """The recommended arm."""
        others = np.array([arm != self.best for arm in statistics.arms])
        with np.errstate(invalid="ignore", divide="ignore"):
            self._error_MA = statistics.spread_MA / np.sqrt(statistics.count_MA)
        self._mean_MA = statistics.mean_MA.copy()
        self._mean_MA[0, others] = 0.0
        self._error_MA[0, others] = PRIOR_QUALITY_STD

    def state(self) -> RouterState:
        """What to save."""
        return RouterState(self.name, {}, self.statistics)

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        return self._mean_MA.copy(), self._error_MA.copy()


def best_single_arm(statistics: ArmStatistics) -> str:
    """The arm with the best average quality; ties go to the cheaper one, then to the first name."""
    cost_A = np.full(len(statistics.arms), np.inf)
    if "cost_usd" in statistics.measures:
        cost_A = np.nan_to_num(statistics.mean_MA[statistics.measures.index("cost_usd")], nan=np.inf)
    ranked = zip(-statistics.mean_MA[0], cost_A, statistics.arms, strict=True)
    return min(ranked)[2]


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
    """Find the best arm of the table."""
    no_settings("best_single", parameters)
    return BestSingleRouter(ArmStatistics.of(table))


def restore(state: RouterState) -> TableRouter:
    """Rebuild from saved state."""
    return BestSingleRouter(state.statistics)


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=False)
