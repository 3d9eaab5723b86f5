"""k nearest training queries, kernel-weighted, shrunk to the arm's average.

For a query x with neighbours i = 1..k at squared distance d_i: w_i = exp(−d_i / h), and for each arm and measure
mean = (Σ w_i y_i + κ ȳ) / (Σ w_i + κ), over the neighbours whose cell was measured; ȳ is the arm's average and κ
counts as that many perfect neighbours. The variance of that mean is (Σ w_i² s² + κ² σ²) / (Σ w_i + κ)², with s² the
local variance (shrunk the same way) and σ² the arm's variance between queries. Far from every training query the
weights vanish, so the mean goes to the average and the standard deviation to σ: unknown territory says so.

RouterBench (arXiv 2403.12031) and "Rethinking predictive routing" (arXiv 2505.12601) show well-tuned kNN at the level
of learned routers. Deviations: kernel weights and shrinkage instead of a plain mean, missing cells, all measures.
k, h and κ are chosen by leave-one-out error on quality where left at 0; queries with an identical vector count as
the same query there. Degenerate case: constant outcomes give that constant with standard deviation 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers.base import ArmStatistics, RouterKind, RouterState, TableRouter
from thinkroute.routers.settings import read_settings
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.signals import restore_encoder
from thinkroute.signals.base import Encoder, Matrix, Scalar, Vector
from thinkroute.types import Query

_NEIGHBOURS: Final = (10, 20, 40, 80, 160)
_BANDWIDTHS: Final = (0.25, 0.5, 1.0, 2.0)
"""Tried as multiples of the median squared distance to the k-th neighbour."""
_PRIOR_WEIGHTS: Final = (0.5, 2.0, 8.0)
_TUNING_ROWS: Final = 4000
_CHUNK: Final = 256
_SAMPLE_STEP: Final = 8
_SAME: Final = 1e-6
"""Squared distance below which two queries count as the same."""


@dataclass(frozen=True)
class KnnSettings:
    """Settings; 0 means chosen by leave-one-out error."""

    neighbours: int = 0
    """k."""
    bandwidth: float = 0.0
    """h, in squared distance of the encoder's vectors."""
    prior_weight: float = 0.0
    """κ: the arm's average counts as this many perfect neighbours."""


class KnnRouter(TableRouter):
    """See the module. Keeps every training query: memory and time grow with their number."""

    name: ClassVar[str] = "knn"

    def __init__(
        self,
        statistics: ArmStatistics,
        settings: KnnSettings,
        encoder: Encoder,
        keys_ND: Matrix,
        cells_QMA: FloatArray,
    ) -> None:
        super().__init__(statistics)
        self.settings = settings
        """Settings with everything chosen."""
        self._encoder = encoder
        # One coordinate after the other, not one query after the other: the product with a vector is quicker so.
        self._keys_DN = np.ascontiguousarray(keys_ND.T, dtype=np.float32)
        self._half_norm_N = (0.5 * (keys_ND.astype(np.float32) ** 2).sum(axis=1)).astype(np.float32)
        self._cells_NMA = cells_QMA.astype(np.float32)
        # From here on the rounded cells count, so that a saved and loaded router gives identical numbers.
        cells_NMA = self._cells_NMA.astype(np.float64)
        seen_NMA = ~np.isnan(cells_NMA)
        self._columns = statistics.mean_MA.size
        # Where every cell was measured, the neighbours' weight is one number and not one a cell.
        self._complete = bool(seen_NMA[:, statistics.count_MA > 0].all())
        # One row per query: values, squares and seen cells side by side, so that one product sums all three.
        filled = np.where(seen_NMA, cells_NMA - np.nan_to_num(statistics.mean_MA), 0.0)
        summed = [filled, filled**2] if self._complete else [filled, filled**2, seen_NMA.astype(np.float64)]
        self._sums_NS = np.ascontiguousarray(np.stack(summed, axis=1).reshape(len(keys_ND), -1))
        variance_C = np.nan_to_num(statistics.spread_MA).reshape(-1) ** 2
        self._prior_square_C = settings.prior_weight * variance_C
        self._prior_variance_C = settings.prior_weight**2 * variance_C
        self._mean_C = statistics.mean_MA.reshape(-1)

    def state(self) -> RouterState:
        """What to save."""
        arrays = {"keys_ND": np.ascontiguousarray(self._keys_DN.T), "cells_NMA": self._cells_NMA}
        return RouterState(self.name, asdict(self.settings), self.statistics, arrays, self._encoder.state())

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        vector = self._encoder.encode(query.text)
        far_N = vector @ self._keys_DN
        np.subtract(self._half_norm_N, far_N, out=far_N)
        nearest = _smallest(far_N, self.settings.neighbours)
        # Half the squared distance of each, to which rounding may have given a sign.
        weight_k = far_N.take(nearest).astype(np.float64)
        weight_k += 0.5 * float(vector @ vector)
        np.maximum(weight_k, 0.0, out=weight_k)
        weight_k *= -2.0 / self.settings.bandwidth
        np.exp(weight_k, out=weight_k)
        return self._weighted(nearest, weight_k)

    def _weighted(self, nearest: NDArray[np.intp], weight_k: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The formulas of the module, on deviations from the arm's average."""
        columns, rows_kS = self._columns, self._sums_NS.take(nearest, axis=0)
        sums_S = weight_k @ rows_kS
        value_C, square_C = sums_S[:columns], sums_S[columns : 2 * columns]
        if self._complete:
            mass, mass_sq = float(weight_k.sum()), float(weight_k @ weight_k)
        else:
            mass, mass_sq = sums_S[2 * columns :], (weight_k * weight_k) @ rows_kS[:, 2 * columns :]
        total = mass + self.settings.prior_weight
        shift_C = value_C / total
        local_C = square_C - shift_C * (2.0 * value_C - shift_C * mass) + self._prior_square_C
        np.maximum(local_C, 0.0, out=local_C)
        local_C *= mass_sq / total
        local_C += self._prior_variance_C
        local_C /= total * total
        shape = self.statistics.mean_MA.shape
        return (self._mean_C + shift_C).reshape(shape), np.sqrt(local_C, out=local_C).reshape(shape)


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
    """Keep the table's queries as neighbours and choose what was left open."""
    if encoder is None:
        raise ConfigError("router knn needs an encoder")
    settings = read_settings(KnnRouter.name, KnnSettings(), parameters)
    if settings.neighbours < 0 or settings.bandwidth < 0 or settings.prior_weight < 0:
        raise ConfigError("router knn: neighbours, bandwidth and prior_weight cannot be negative (0: chosen)")
    statistics = ArmStatistics.of(table)
    cells_QMA = statistics.training_cells(table)
    # Rows without any graded cell teach nothing and would only take the place of neighbours that do.
    graded = ~np.isnan(cells_QMA[:, 0]).all(axis=1)
    rows = np.flatnonzero(graded)
    keys_ND = encoder.encode_batch([table.texts[int(row)] for row in rows])
    cells_QMA = cells_QMA[rows]
    settings = _choose(settings, keys_ND, cells_QMA[:, 0], statistics)
    return KnnRouter(statistics, settings, encoder, keys_ND, cells_QMA)


def restore(state: RouterState) -> TableRouter:
    """Rebuild from saved state."""
    settings = read_settings(KnnRouter.name, KnnSettings(), state.parameters)
    keys, cells = state.arrays.get("keys_ND"), state.arrays.get("cells_NMA")
    if state.encoder is None or keys is None or cells is None:
        raise DataError("router knn: the artefact lacks its encoder, keys_ND or cells_NMA: fit it again")
    encoder = restore_encoder(state.encoder)
    if keys.shape != (len(cells), encoder.dimension) or cells.shape[1:] != state.statistics.mean_MA.shape:
        raise DataError(
            f"router knn: keys {keys.shape} and cells {cells.shape} do not fit the card: fit it again"
        )
    return KnnRouter(state.statistics, settings, encoder, keys.astype(np.float32), cells.astype(np.float64))


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=True)


def _smallest(far_N: Vector, k: int) -> NDArray[np.intp]:
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
class _Neighbours:
    """Nearest other queries of each tuning row, nearest first; distance inf pads rows that have fewer."""

    distance_Rk: FloatArray
    index_Rk: NDArray[np.intp]


def _choose(
    settings: KnnSettings, keys_ND: Matrix, quality_NA: FloatArray, statistics: ArmStatistics
) -> KnnSettings:
    """Fill what is 0 with the values of least leave-one-out squared error of quality."""
    others = len(keys_ND) - 1
    if others < 1:
        return _filled(settings, 1, 1.0, 1.0)
    wanted = (settings.neighbours,) if settings.neighbours else _NEIGHBOURS
    depths = sorted({min(k, others) for k in wanted})
    rows = np.linspace(0, others, num=min(len(keys_ND), _TUNING_ROWS)).astype(np.intp)
    near = _leave_one_out(keys_ND, rows, depths[-1])
    candidates: list[tuple[float, KnnSettings]] = []
    for k in depths:
        scale = _typical(near.distance_Rk[:, k - 1])
        bandwidths = (settings.bandwidth,) if settings.bandwidth else [scale * f for f in _BANDWIDTHS]
        prior_weights = (settings.prior_weight,) if settings.prior_weight else _PRIOR_WEIGHTS
        for bandwidth, prior_weight in product(bandwidths, prior_weights):
            candidate = replace(settings, neighbours=k, bandwidth=bandwidth, prior_weight=prior_weight)
            error = _error(candidate, near, rows, quality_NA, statistics.mean_MA[0])
            candidates.append((error, candidate))
    return min(candidates, key=lambda pair: pair[0])[1]


def _typical(distance_R: FloatArray) -> float:
    finite = distance_R[np.isfinite(distance_R)]
    return max(float(np.quantile(finite, 0.5)), _SAME) if finite.size else 1.0


def _filled(settings: KnnSettings, neighbours: int, bandwidth: float, prior_weight: float) -> KnnSettings:
    return KnnSettings(
        settings.neighbours or neighbours,
        settings.bandwidth or bandwidth,
        settings.prior_weight or prior_weight,
    )


def _leave_one_out(keys_ND: Matrix, rows: NDArray[np.intp], depth: int) -> _Neighbours:
    norm_N = (keys_ND**2).sum(axis=1)
    distances: list[FloatArray] = []
    indices: list[NDArray[np.intp]] = []
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        distance_RN = norm_N[chunk, None] + norm_N[None, :] - 2.0 * keys_ND[chunk] @ keys_ND.T
        distance_RN[distance_RN < _SAME] = np.inf
        distance_RN[np.arange(len(chunk)), chunk] = np.inf
        index_Rk = np.argpartition(distance_RN, depth - 1, axis=1)[:, :depth]
        distance_Rk = np.take_along_axis(distance_RN, index_Rk, axis=1)
        order_Rk = np.argsort(distance_Rk, axis=1, kind="stable")
        indices.append(np.take_along_axis(index_Rk, order_Rk, axis=1))
        distances.append(np.take_along_axis(distance_Rk, order_Rk, axis=1).astype(np.float64))
    return _Neighbours(np.concatenate(distances), np.concatenate(indices))


def _error(
    settings: KnnSettings,
    near: _Neighbours,
    rows: NDArray[np.intp],
    quality_NA: FloatArray,
    mean_A: FloatArray,
) -> float:
    """Squared error of quality plus that of the differences between arms, which are what routing turns on."""
    k = settings.neighbours
    weight_Rk = np.exp(-near.distance_Rk[:, :k] / settings.bandwidth)
    centred_NA = quality_NA - mean_A
    seen_NA = (~np.isnan(centred_NA)).astype(np.float64)
    filled_NA = np.nan_to_num(centred_NA)
    index_Rk = near.index_Rk[:, :k]
    mass_RA = np.einsum("rk,rka->ra", weight_Rk, seen_NA[index_Rk])
    value_RA = np.einsum("rk,rka->ra", weight_Rk, filled_NA[index_Rk])
    residual_RA = centred_NA[rows] - value_RA / (mass_RA + settings.prior_weight)
    difference_RA = residual_RA - np.array(np.nanmean(residual_RA, axis=1, keepdims=True))
    return float(np.nanmean(np.stack([residual_RA**2, difference_RA**2])))
