"""Targets of routers that learn every measure at once: quality as it is, the rest as standardised logarithms.

Tokens, seconds and dollars are skewed and of different sizes; log(1 + y), centred and scaled, makes one squared error fit
all. What a model says on that scale comes back as logits of quality and as tokens, seconds and dollars.
Shape letters: R rows, Q queries, M measures (quality first), A arms, or 1 where all arms share a scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from thinkroute.errors import DataError
from thinkroute.routers.score_calibration import logit
from thinkroute.routers.table import FloatArray, Measure
from thinkroute.signals.base import Array

_LARGEST: Final = 30.0
"""No measure has a larger logarithm; a lost model must not overflow."""


@dataclass(frozen=True)
class Scales:
    """How a model's numbers relate to values."""

    unit_M1: FloatArray
    """What a value is multiplied with before log(1 + y); dollars are far below 1 and counted in millionths."""
    centre_MA: FloatArray
    scale_MA: FloatArray

    @classmethod
    def of(cls, cells_RMA: FloatArray, measures: Sequence[Measure], *, shared: bool = False) -> Scales:
        """Average and spread of each column, or of all arms together; 0 and 1 where there is no cell."""
        unit_M1 = np.array([[1e6 if measure == "cost_usd" else 1.0] for measure in measures])
        if shared:
            cells_RMA = np.moveaxis(cells_RMA, 1, 2).reshape(-1, cells_RMA.shape[1], 1)
        count_MA = np.maximum((~np.isnan(cells_RMA)).sum(axis=0), 1)
        target_RMA = np.log1p(cells_RMA * unit_M1)
        centre_MA = np.nansum(target_RMA, axis=0) / count_MA
        scale_MA = np.sqrt(np.nansum((target_RMA - centre_MA) ** 2, axis=0) / count_MA)
        centre_MA[0], scale_MA[0] = logit(np.nansum(cells_RMA[:, 0], axis=0) / count_MA[0]), 1.0
        return cls(unit_M1, centre_MA, np.where(scale_MA > 1e-9, scale_MA, 1.0))

    @classmethod
    def restored(cls, arrays: Mapping[str, Array], measures: int, arms: int) -> Scales:
        """What was saved.

        Raises:
            DataError: an array is missing or not of the shape of the measures and arms.
        """
        found: list[FloatArray] = []
        for name, columns in (("unit_M1", 1), ("centre_MA", arms), ("scale_MA", arms)):
            array = arrays.get(name)
            if array is None or array.shape != (measures, columns):
                raise DataError(f"array {name} is missing or not of shape {(measures, columns)}: fit again")
            found.append(array.astype(np.float64))
        return cls(*found)

    def targets(self, cells_RMA: FloatArray) -> FloatArray:
        """What a model should say, NaN where a cell is missing."""
        target_RMA = (np.log1p(cells_RMA * self.unit_M1) - self.centre_MA) / self.scale_MA
        target_RMA[:, 0] = cells_RMA[:, 0]
        return target_RMA

    def scores(self, output_QMA: FloatArray) -> FloatArray:
        """What a model says, as logits of quality and as tokens, seconds, dollars."""
        score_QMA = output_QMA * self.scale_MA + self.centre_MA
        score_QMA[:, 1:] = np.expm1(np.minimum(score_QMA[:, 1:], _LARGEST)) / self.unit_M1[1:]
        return score_QMA
