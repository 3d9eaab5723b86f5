"""How wrong predictions are, told apart from how noisy outcomes are: keeps stated deviations honest.

A squared residual on a query left out is noise plus squared error of the mean. The noise alone is told from
neighbouring queries: half the squared difference of two cells grows with their distance from the noise variance on
(the variogram and its nugget, as in kriging). What is left is the error a router should have stated.
Shape letters: N training queries, R rows left out, k neighbours, M measures, A arms.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.routers.neighbours import Neighbours, neighbours_of, tuning_rows
from thinkroute.routers.table import FloatArray
from thinkroute.signals.base import Matrix

_PAIRS: Final = 20
"""Neighbours per row that the noise is told from."""
_LEAST: Final = 0.0625
"""A stated variance is never lowered further than to this share."""
_FEWEST: Final = 100
"""Queries from which on noise can be told from error: with fewer, neighbours are too far to say what noise is."""


def honest_scales(
    keys_ND: Matrix, cells_NMA: NDArray[np.floating], residual_RMA: FloatArray, variance_RMA: FloatArray
) -> FloatArray:
    """Factors on stated standard deviations, one per measure, shape (M,).

    1 unless enough data contradict it: raised where errors were larger than stated, lowered where they
    were surely smaller. Arms are weighed by their own variance, so that one with large numbers does not decide for all.

    Args:
        keys_ND: Vectors of the training queries.
        cells_NMA: Their cells.
        residual_RMA: Measured minus predicted, for `tuning_rows` left out of what predicts them.
        variance_RMA: The variances stated for these predictions.
    """
    if len(keys_ND) < _FEWEST:
        return np.asarray([1.0] * cells_NMA.shape[1])
    near = neighbours_of(keys_ND, tuning_rows(len(keys_ND)), min(_PAIRS, len(keys_ND) - 1))
    scales = [
        _scale(near, cells_NMA[:, m].astype(np.float64), residual_RMA[:, m], variance_RMA[:, m])
        for m in range(cells_NMA.shape[1])
    ]
    return np.asarray(scales, dtype=np.float64)


def _scale(near: Neighbours, cells_NA: FloatArray, residual_RA: FloatArray, variance_RA: FloatArray) -> float:
    seen_A = (~np.isnan(cells_NA)).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread_A = np.sqrt(np.nansum((cells_NA - np.nansum(cells_NA, axis=0) / seen_A) ** 2, axis=0) / seen_A)
    told_A = np.flatnonzero((seen_A > 2) & (spread_A > 0))
    if not told_A.size:
        return 1.0
    unit_A = spread_A[told_A]
    noise = noise_variance(near, cells_NA[:, told_A] / unit_A)
    residual_RA, variance_RA = residual_RA[:, told_A] / unit_A, variance_RA[:, told_A] / unit_A**2
    squared = residual_RA[~np.isnan(residual_RA)] ** 2
    stated = float(variance_RA[~np.isnan(residual_RA)].mean()) if squared.size else 0.0
    if stated <= 0:
        return 1.0
    missed = float(squared.mean()) - noise
    doubt = 2.0 * float(squared.std()) / np.sqrt(squared.size)
    return float(np.sqrt(min(max(1.0, missed / stated), max((missed + doubt) / stated, _LEAST))))


def noise_variance(near: Neighbours, cells_NA: FloatArray) -> float:
    """Variance of single cells that no place explains, averaged over cells.

    Half the squared difference of each row and its nearest neighbours, as a line over their squared distance, at
    distance 0.
    """
    half_RkA = 0.5 * (cells_NA[near.rows_R, None] - cells_NA[near.index_Rk]) ** 2
    usable_RkA = np.isfinite(near.distance_Rk)[:, :, None] & ~np.isnan(half_RkA)
    if not usable_RkA.any():
        deviation_NA: FloatArray = cells_NA - np.nanmean(cells_NA, axis=0)
        return float(np.nanmean(deviation_NA**2))
    distance = np.broadcast_to(near.distance_Rk[:, :, None], half_RkA.shape)[usable_RkA]
    half = half_RkA[usable_RkA]
    spread = distance - distance.mean()
    variance = float((spread**2).mean())
    slope = max(float((spread * half).mean()) / variance, 0.0) if variance > 0 else 0.0
    return max(float(half.mean()) - slope * float(distance.mean()), 0.0)
