"""Per-arm averages, whatever the query. With a policy it is "the best single arm at today's price".

Uncertainty is the standard error of the mean. The one router that cannot be wrong about a query, since it never
looks at one; every other router must beat it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np

from thinkroute.routers.base import ArmStatistics, RouterKind, RouterState, TableRouter
from thinkroute.routers.settings import no_settings
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.signals.base import Encoder, Scalar
from thinkroute.types import Query


class ConstantRouter(TableRouter):
    """Predicts each arm's average."""

    name: ClassVar[str] = "constant"

    def __init__(self, statistics: ArmStatistics) -> None:
        super().__init__(statistics)
        with np.errstate(invalid="ignore", divide="ignore"):
            self._error_MA = statistics.spread_MA / np.sqrt(statistics.count_MA)

    def state(self) -> RouterState:
        """What to save."""
        return RouterState(self.name, {}, self.statistics)

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        return self.statistics.mean_MA.copy(), self._error_MA.copy()


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
    """Average the table's cells per arm."""
    no_settings("constant", parameters)
    return ConstantRouter(ArmStatistics.of(table))


def restore(state: RouterState) -> TableRouter:
    """Rebuild from saved state."""
    return ConstantRouter(state.statistics)


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=False)
