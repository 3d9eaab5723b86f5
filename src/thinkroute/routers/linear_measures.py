"""What a router's own method does not model: tokens, seconds and dollars, as ridge regressions on encoder vectors.

For routers such as RouterDC whose method speaks of quality alone. Mean and spread are those of
`thinkroute.routers.ridge`; this module applies them to vectors that were computed already.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from thinkroute.errors import DataError
from thinkroute.routers import ridge
from thinkroute.routers.base import ArmStatistics
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.signals.base import Array, Encoder, Matrix

_PREFIX = "linear_"
_NAMES = ("centre_D", "intercept_MA", "weight_DMA", "inverse_DD", "noise_MA", "low_MA", "high_MA")


class LinearMeasures:
    """Fitted regressions of every measure, quality among them."""

    def __init__(self, statistics: ArmStatistics, fitted: Mapping[str, FloatArray]) -> None:
        self._fitted = dict(fitted)
        self._weight_DC = np.ascontiguousarray(fitted["weight_DMA"].reshape(len(fitted["centre_D"]), -1))
        with np.errstate(divide="ignore", invalid="ignore"):
            self._per_cell_MA = 1.0 / statistics.count_MA
            self._coverage_MA = statistics.rows / statistics.count_MA

    def moments(self, vector_QD: Matrix) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the mean, shapes (Q, M, A)."""
        fitted = self._fitted
        centred_QD = vector_QD - fitted["centre_D"]
        shape = (len(centred_QD), *fitted["intercept_MA"].shape)
        mean_QMA = fitted["intercept_MA"] + (centred_QD @ self._weight_DC).reshape(shape)
        mean_QMA = np.minimum(np.maximum(mean_QMA, fitted["low_MA"]), fitted["high_MA"])
        leverage_Q = ((centred_QD @ fitted["inverse_DD"]) * centred_QD).sum(axis=1)
        spread_QMA = np.sqrt(self._per_cell_MA + self._coverage_MA * leverage_Q[:, None, None])
        return mean_QMA, fitted["noise_MA"] * spread_QMA

    def arrays(self) -> dict[str, Array]:
        """What to save."""
        return {_PREFIX + name: array for name, array in self._fitted.items()}

    @classmethod
    def of(cls, statistics: ArmStatistics, arrays: Mapping[str, Array], dimension: int) -> LinearMeasures:
        """What was saved.

        Raises:
            DataError: an array is missing or misshapen.
        """
        cells = statistics.mean_MA.shape
        by_end: dict[str, tuple[int, ...]] = {"D": (dimension,), "MA": cells}
        by_end |= {"DMA": (dimension, *cells), "DD": (dimension, dimension)}
        found: dict[str, FloatArray] = {}
        for name in _NAMES:
            array, shape = arrays.get(_PREFIX + name), by_end[name.rpartition("_")[2]]
            if array is None or array.shape != shape:
                raise DataError(f"array {_PREFIX}{name} is missing or not of shape {shape}: fit again")
            found[name] = array.astype(np.float64)
        return cls(statistics, found)


def fit_linear_measures(statistics: ArmStatistics, table: OutcomeTable, encoder: Encoder) -> LinearMeasures:
    """Ridge regressions of all measures of a table on the encoder's vectors, arms in the order of the statistics."""
    state = ridge.fit(table.select_arms(statistics.arms), {}, encoder).state()
    return LinearMeasures(statistics, {name: state.arrays[name].astype(np.float64) for name in _NAMES})
