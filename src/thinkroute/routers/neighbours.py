"""Kernel-weighted averages over the nearest training queries: the sums, the search and the choice of settings.

For a query at squared distance d_i from its neighbours i = 1..k the weights are w_i = exp(−d_i / h). Owned here: finding
the k nearest (exactly, by brute force in float32), summing their cells, and choosing k, h and the prior's weight κ by
the error on queries left out. What is averaged, and what it is worth, belongs to the routers.
Shape letters: N training queries, R rows used for tuning, k neighbours, M measures, A arms, C = M·A cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.routers.base import ArmStatistics
from thinkroute.routers.clusters import IndexArray
from thinkroute.routers.table import FloatArray
from thinkroute.signals.base import Matrix, Vector

NEIGHBOURS: Final = (10, 20, 40, 80, 160)
BANDWIDTHS: Final = (0.25, 0.5, 1.0, 2.0)
"""Tried as multiples of the median squared distance to the k-th neighbour."""
PRIOR_WEIGHTS: Final = (2.0, 4.0, 8.0, 16.0)
_TUNING_ROWS: Final = 4000
_CHUNK: Final = 256
_SAMPLE_STEP: Final = 8
_SAME: Final = 1e-6
ERROR_DIGITS: Final = 12
"""Errors closer than this are equal: the order of sums must not choose a setting."""
"""Squared distance below which two queries count as the same."""


@dataclass(frozen=True)
class KnnSettings:
    """Settings of a kernel average; 0 means chosen by the error on queries left out."""

    neighbours: int = 0
    """k."""
    bandwidth: float = 0.0
    """h, in squared distance of the encoder's vectors."""
    prior_weight: float = 0.0
    """κ: the arm's average counts as this many perfect neighbours."""


class KernelSums:
    """Sums over the k nearest of every cell's deviation from its arm's average; see the module."""

    def __init__(
        self, keys_ND: Matrix, cells_NMA: NDArray[np.float32], mean_MA: FloatArray, settings: KnnSettings
    ) -> None:
        self.neighbours, self._bandwidth = settings.neighbours, settings.bandwidth
        self._prior_weight = settings.prior_weight
        # One coordinate after the other, not one query after the other: the product with a vector is quicker so.
        self._keys_DN = np.ascontiguousarray(keys_ND.T, dtype=np.float32)
        self._half_norm_N = (0.5 * (keys_ND.astype(np.float32) ** 2).sum(axis=1)).astype(np.float32)
        cells_NC = cells_NMA.astype(np.float64).reshape(len(keys_ND), -1)
        seen_NC = ~np.isnan(cells_NC)
        # Where every cell was measured, the neighbours' weight is one number and not one a cell.
        complete = bool(seen_NC[:, seen_NC.any(axis=0)].all())
        self._seen_NC = None if complete else seen_NC.astype(np.float64)
        self._value_NC = np.where(seen_NC, cells_NC - np.nan_to_num(mean_MA.reshape(-1)), 0.0)
        self._square_NC = self._value_NC**2

    @property
    def keys_ND(self) -> Matrix:
        """Vectors of the training queries."""
        return np.ascontiguousarray(self._keys_DN.T)

    def nearest(self, vector: Vector) -> Near:
        """The k nearest training queries, in no order."""
        far_N = vector @ self._keys_DN
        np.subtract(self._half_norm_N, far_N, out=far_N)
        index_k = smallest(far_N, self.neighbours)
        # Half the squared distance of each, to which rounding may have given a sign.
        distance_k = far_N.take(index_k).astype(np.float64)
        distance_k += 0.5 * float(vector @ vector)
        np.maximum(distance_k, 0.0, out=distance_k)
        distance_k *= 2.0
        return Near(index_k, distance_k, np.exp(distance_k / -self._bandwidth))

    def shift(self, near: Near) -> FloatArray:
        """Mean deviation of every cell among these neighbours, shrunk by the prior's weight, shape (C,)."""
        shift_C = near.weight_k @ self._value_NC.take(near.index_k, axis=0)
        if self._seen_NC is None:
            shift_C /= float(near.weight_k.sum()) + self._prior_weight
        else:
            shift_C /= near.weight_k @ self._seen_NC.take(near.index_k, axis=0) + self._prior_weight
        return shift_C

    def of(self, near: Near) -> Sums:
        """Sums over these neighbours."""
        weight_k = near.weight_k
        value_C = weight_k @ self._value_NC.take(near.index_k, axis=0)
        square_C = weight_k @ self._square_NC.take(near.index_k, axis=0)
        if self._seen_NC is None:
            return Sums(value_C, square_C, float(weight_k.sum()), float(weight_k @ weight_k))
        seen_kC = self._seen_NC.take(near.index_k, axis=0)
        return Sums(value_C, square_C, weight_k @ seen_kC, (weight_k * weight_k) @ seen_kC)


@dataclass(frozen=True, slots=True)
class Near:
    """A query's nearest training queries: which, at what squared distance, with what kernel weight."""

    index_k: IndexArray
    distance_k: FloatArray
    weight_k: FloatArray


@dataclass(frozen=True, slots=True)
class Sums:
    """What a query's neighbours add up to: Σ w (y − ȳ), Σ w (y − ȳ)², Σ w and Σ w² over measured cells."""

    value_C: FloatArray
    square_C: FloatArray
    mass: FloatArray | float
    mass_sq: FloatArray | float


def mean_and_variance(
    sums: Sums, prior_weight: float, variance_C: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Mean deviation (Σ w y + κ·0) / (Σ w + κ) and the variance of that mean, (Σ w² s² + κ² σ²) / (Σ w + κ)².

    s² is the variance among the neighbours, shrunk in the same way to the arm's variance σ² (`variance_C`).
    """
    total = sums.mass + prior_weight
    shift_C = sums.value_C / total
    local_C = sums.square_C - shift_C * (2.0 * sums.value_C - shift_C * sums.mass) + prior_weight * variance_C
    np.maximum(local_C, 0.0, out=local_C)
    local_C *= sums.mass_sq / total
    local_C += prior_weight**2 * variance_C
    local_C /= total * total
    return shift_C, local_C


def smallest(far_N: Vector, k: int) -> IndexArray:
    """Places of the k smallest numbers, all of them when there are fewer.

    A sample gives a bound under which there are likely somewhat more than k; partitioning those few is several
    times quicker than partitioning all. The result is exact: with fewer than k under the bound, all are sorted out.
    """
    if k >= len(far_N):
        return np.arange(len(far_N))
    sample = far_N[::_SAMPLE_STEP].copy()
    rank = 2 * k // _SAMPLE_STEP + 4
    if rank < len(sample):
        sample.partition(rank)
        few = np.flatnonzero(far_N < sample[rank])
        if len(few) >= k:
            return few[np.argpartition(far_N[few], k - 1)[:k]]
    return np.argpartition(far_N, k - 1)[:k]


@dataclass(frozen=True)
class Neighbours:
    """Nearest other queries of some training rows, nearest first; distance inf pads rows that have fewer."""

    rows_R: IndexArray
    distance_Rk: FloatArray
    index_Rk: IndexArray


def tuning_rows(count: int) -> IndexArray:
    """Rows that settings are tuned on: all of them, evenly thinned when there are many."""
    return np.linspace(0, count - 1, num=min(count, _TUNING_ROWS)).astype(np.intp)


def neighbours_of(
    keys_ND: Matrix, rows_R: IndexArray, depth: int, fold_N: IndexArray | None = None
) -> Neighbours:
    """Nearest queries of each row, itself and its copies left out, and with folds its whole fold left out.

    At most as many as there are; at least one column, of distance inf for a query that is alone.
    """
    depth = max(min(depth, len(keys_ND) - 1), 1)
    norm_N = (keys_ND**2).sum(axis=1)
    distances: list[FloatArray] = []
    indices: list[IndexArray] = []
    for start in range(0, len(rows_R), _CHUNK):
        chunk = rows_R[start : start + _CHUNK]
        distance_RN = norm_N[chunk, None] + norm_N[None, :] - 2.0 * keys_ND[chunk] @ keys_ND.T
        distance_RN[distance_RN < _SAME] = np.inf
        distance_RN[np.arange(len(chunk)), chunk] = np.inf
        if fold_N is not None:
            distance_RN[fold_N[chunk, None] == fold_N] = np.inf
        index_Rk = np.argpartition(distance_RN, depth - 1, axis=1)[:, :depth]
        distance_Rk = np.take_along_axis(distance_RN, index_Rk, axis=1)
        order_Rk = np.argsort(distance_Rk, axis=1, kind="stable")
        indices.append(np.take_along_axis(index_Rk, order_Rk, axis=1))
        distances.append(np.take_along_axis(distance_Rk, order_Rk, axis=1).astype(np.float64))
    return Neighbours(rows_R, np.concatenate(distances), np.concatenate(indices))


def choose(settings: KnnSettings, keys_ND: Matrix, quality_NA: FloatArray, mean_A: FloatArray) -> KnnSettings:
    """Fill what is 0 with the values of least squared error of quality on queries left out one by one.

    Args:
        settings: What is fixed already.
        keys_ND: Vectors of the training queries.
        quality_NA: Their graded cells.
        mean_A: The arms' averages.
    """
    others = len(keys_ND) - 1
    if others < 1:
        return KnnSettings(settings.neighbours or 1, settings.bandwidth or 1.0, settings.prior_weight or 1.0)
    wanted = (settings.neighbours,) if settings.neighbours else NEIGHBOURS
    depths = sorted({min(k, others) for k in wanted})
    rows_R = tuning_rows(len(keys_ND))
    near = neighbours_of(keys_ND, rows_R, depths[-1])
    centred_NA = quality_NA - mean_A
    candidates: list[tuple[float, KnnSettings]] = []
    for k in depths:
        scale = typical(near.distance_Rk[:, k - 1])
        for bandwidth in (settings.bandwidth,) if settings.bandwidth else [scale * f for f in BANDWIDTHS]:
            tried = replace(settings, neighbours=k, bandwidth=bandwidth)
            sums = sums_left_out(tried, near, centred_NA)
            for prior_weight in (settings.prior_weight,) if settings.prior_weight else PRIOR_WEIGHTS:
                error = paired_error(centred_NA[rows_R] - sums.value_C / (sums.mass + prior_weight))
                candidates.append((error, replace(tried, prior_weight=prior_weight)))
    return min(candidates, key=lambda pair: round(pair[0], ERROR_DIGITS))[1]


def sums_left_out(settings: KnnSettings, near: Neighbours, centred_NA: FloatArray) -> Sums:
    """`KernelSums.of` for rows left out, of one measure: arrays of shape (R, A)."""
    k = settings.neighbours
    weight_Rk = np.exp(-near.distance_Rk[:, :k] / settings.bandwidth)
    cells_RkA = centred_NA[near.index_Rk[:, :k]]
    seen_RkA = (~np.isnan(cells_RkA)).astype(np.float64)
    cells_RkA = np.nan_to_num(cells_RkA)
    return Sums(
        value_C=np.einsum("rk,rka->ra", weight_Rk, cells_RkA),
        square_C=np.einsum("rk,rka->ra", weight_Rk, cells_RkA**2),
        mass=np.einsum("rk,rka->ra", weight_Rk, seen_RkA),
        mass_sq=np.einsum("rk,rka->ra", weight_Rk**2, seen_RkA),
    )


def left_out(
    settings: KnnSettings,
    statistics: ArmStatistics,
    near: Neighbours,
    cells_NMA: NDArray[np.float32],
) -> tuple[FloatArray, FloatArray]:
    """Residuals of rows left out and the variances stated for them, shapes (R, M, A)."""
    residual_RMA = np.zeros((len(near.rows_R), *statistics.mean_MA.shape))
    variance_RMA = np.zeros_like(residual_RMA)
    for measure, mean_A in enumerate(statistics.mean_MA):
        centred_NA = cells_NMA[:, measure].astype(np.float64) - mean_A
        variance_A = np.nan_to_num(statistics.spread_MA[measure]) ** 2
        sums = sums_left_out(settings, near, centred_NA)
        shift_RA, variance_RMA[:, measure] = mean_and_variance(sums, settings.prior_weight, variance_A)
        residual_RMA[:, measure] = centred_NA[near.rows_R] - shift_RA
    return residual_RMA, variance_RMA


def paired_error(residual_RA: FloatArray) -> float:
    """Mean squared error of quality plus that of the differences between arms, which are what routing turns on."""
    difference_RA = residual_RA - np.array(np.nanmean(residual_RA, axis=1, keepdims=True))
    return float(np.nanmean(np.stack([residual_RA**2, difference_RA**2])))


def typical(distance_R: FloatArray) -> float:
    """Median of the finite distances, never 0."""
    finite = distance_R[np.isfinite(distance_R)]
    return max(float(np.quantile(finite, 0.5)), _SAME) if finite.size else 1.0
