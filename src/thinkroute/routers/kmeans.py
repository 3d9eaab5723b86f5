"""A table of averages per cluster of queries, as Avengers-Pro uses (arXiv 2508.12631).

Training queries are cut into K clusters by k-means; each cluster keeps every arm's average of every measure. A query
mixes its `nearest` clusters with weights softmax(−β·distance). Avengers-Pro then picks the arm of highest
α·normalised quality + (1 − α)·normalised saving; here the policy's price does that, in dollars.

Deviations: a cluster's mean is shrunk to the arm's average by κ (`prior_weight`), as small clusters are noise; tokens,
dollars and latency get tables, too; missing cells are left out. The variance of the mean is Σ_c w_c² v_c with v_c that of
cluster c's shrunk mean, made honest by queries left out (`honesty`). Published: +4.0 % over GPT-5, −31.7 % cost at equal
quality. Degenerate case: one cluster gives `constant`, up to κ.
Shape letters: K clusters, D coordinates, M measures, A arms, N training queries, Q queries asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers.base import ArmStatistics, RouterKind, RouterState, TableRouter
from thinkroute.routers.clusters import IndexArray, k_means, nearest_centres, squared_distances
from thinkroute.routers.honesty import honest_scales
from thinkroute.routers.neighbours import tuning_rows
from thinkroute.routers.settings import read_settings
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.signals import restore_encoder
from thinkroute.signals.base import Encoder, Matrix, Scalar
from thinkroute.types import Query


@dataclass(frozen=True)
class KmeansSettings:
    """Settings."""

    clusters: int = 20
    """K, at most; 25 to 64 in the papers. Fewer are better where tasks are few (docs/experiments.md)."""
    nearest: int = 2
    """Clusters mixed per query."""
    sharpness: float = 9.0
    """β of the softmax over distances."""
    prior_weight: float = 2.0
    """κ: the arm's average counts as this many queries in every cluster."""
    seed: int = 0
    """Of the start of k-means."""


class KmeansRouter(TableRouter):
    """See the module."""

    name: ClassVar[str] = "kmeans"

    def __init__(
        self,
        statistics: ArmStatistics,
        settings: KmeansSettings,
        encoder: Encoder,
        centre_KD: Matrix,
        mean_KMA: FloatArray,
        variance_KMA: FloatArray,
    ) -> None:
        super().__init__(statistics)
        self.settings = settings
        self._encoder, self._centre_KD = encoder, centre_KD
        self._mean_KMA, self._variance_KMA = mean_KMA, variance_KMA

    def state(self) -> RouterState:
        """What to save."""
        arrays = {
            "centre_KD": self._centre_KD,
            "mean_KMA": self._mean_KMA,
            "variance_KMA": self._variance_KMA,
        }
        return RouterState(self.name, asdict(self.settings), self.statistics, arrays, self._encoder.state())

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        mean_QMA, std_QMA = self._batch_moments((query,))
        return mean_QMA[0], std_QMA[0]

    def _batch_moments(self, queries: Sequence[Query]) -> tuple[FloatArray, FloatArray]:
        vector_QD = self._encoder.encode_batch([query.text for query in queries])
        weight_QK = mixture(vector_QD, self._centre_KD, self.settings)
        shape = (len(queries), *self.statistics.mean_MA.shape)
        mean_QC = weight_QK @ self._mean_KMA.reshape(len(self._mean_KMA), -1)
        variance_QC = weight_QK**2 @ self._variance_KMA.reshape(len(self._variance_KMA), -1)
        return mean_QC.reshape(shape), np.sqrt(variance_QC).reshape(shape)


def mixture(vector_QD: NDArray[np.floating], centre_KD: Matrix, settings: KmeansSettings) -> FloatArray:
    """Weight of every cluster for every query, shape (Q, K), rows summing to 1."""
    distance_QK = np.sqrt(squared_distances(vector_QD.astype(np.float64), centre_KD))
    nearest = min(settings.nearest, len(centre_KD))
    limit_Q1 = np.partition(distance_QK, nearest - 1, axis=1)[:, nearest - 1 : nearest]
    near_Q1 = distance_QK.min(axis=1, keepdims=True)
    weight_QK = np.where(distance_QK <= limit_Q1, np.exp(-settings.sharpness * (distance_QK - near_Q1)), 0.0)
    return weight_QK / weight_QK.sum(axis=1, keepdims=True)


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
    """Cluster the table's queries and average their cells."""
    if encoder is None:
        raise ConfigError("router kmeans needs an encoder")
    settings = read_settings(KmeansRouter.name, KmeansSettings(), parameters)
    if min(settings.clusters, settings.nearest) < 1 or min(settings.sharpness, settings.prior_weight) < 0:
        raise ConfigError(
            "router kmeans: clusters and nearest are at least 1, sharpness and prior_weight at least 0"
        )
    statistics = ArmStatistics.of(table)
    cells_QMA = statistics.training_cells(table)
    rows = np.flatnonzero((~np.isnan(cells_QMA[:, 0])).any(axis=1))
    vector_ND, cells_NMA = encoder.encode_batch([table.texts[int(row)] for row in rows]), cells_QMA[rows]
    centre_KD = k_means(vector_ND, settings.clusters, settings.seed)
    label_N = nearest_centres(vector_ND, centre_KD)
    counted = _Counted.of(cells_NMA - statistics.mean_MA, label_N, len(centre_KD))
    shift_KMA, variance_KMA = counted.shrunk(statistics.spread_MA**2, settings.prior_weight)
    rows_R = tuning_rows(len(rows))
    weight_RK = mixture(vector_ND[rows_R], centre_KD, settings)
    residual_RMA = _left_out(cells_NMA - statistics.mean_MA, label_N, rows_R, weight_RK, counted, settings)
    stated_RMA = np.nan_to_num(np.einsum("rk,kma->rma", weight_RK**2, variance_KMA))
    scale_M = honest_scales(vector_ND, cells_NMA, residual_RMA, stated_RMA)
    return KmeansRouter(
        statistics,
        settings,
        encoder,
        centre_KD,
        statistics.mean_MA + shift_KMA,
        variance_KMA * scale_M[:, None] ** 2,
    )


@dataclass(frozen=True)
class _Counted:
    """Sums of deviations from the average per cluster."""

    count_KMA: FloatArray
    total_KMA: FloatArray
    square_KMA: FloatArray

    @classmethod
    def of(cls, deviation_NMA: FloatArray, label_N: IndexArray, clusters: int) -> _Counted:
        filled_NMA = np.nan_to_num(deviation_NMA)
        sums = [np.zeros((clusters, *deviation_NMA.shape[1:])) for _ in range(3)]
        for total, part in zip(sums, (~np.isnan(deviation_NMA), filled_NMA, filled_NMA**2), strict=True):
            np.add.at(total, label_N, part)
        return cls(*sums)

    def shrunk(self, variance_MA: FloatArray, prior_weight: float) -> tuple[FloatArray, FloatArray]:
        """Deviation of every cluster's mean from the average and the variance of that mean."""
        weight_KMA = np.where(self.count_KMA + prior_weight > 0, self.count_KMA + prior_weight, 1.0)
        shift_KMA = self.total_KMA / weight_KMA
        within_KMA = self.square_KMA - shift_KMA * (2.0 * self.total_KMA - shift_KMA * self.count_KMA)
        # An empty cluster without a prior knows as little as the average does of one query.
        alone_KMA = (self.count_KMA == 0) & (prior_weight == 0)
        own_KMA = np.maximum(within_KMA, 0.0) + prior_weight * variance_MA
        error_KMA = own_KMA / weight_KMA * self.count_KMA + (prior_weight**2 + alone_KMA) * variance_MA
        return shift_KMA + 0.0 * variance_MA, error_KMA / weight_KMA**2


def _left_out(
    deviation_NMA: FloatArray,
    label_N: IndexArray,
    rows_R: IndexArray,
    weight_RK: FloatArray,
    counted: _Counted,
    settings: KmeansSettings,
) -> FloatArray:
    """Residuals of rows whose own cells were taken out of their cluster, shape (R, M, A)."""
    weight_KMA = np.maximum(counted.count_KMA + settings.prior_weight, 1.0)
    predicted_RMA = np.einsum("rk,kma->rma", weight_RK, counted.total_KMA / weight_KMA)
    own_RMA, seen_RMA = np.nan_to_num(deviation_NMA[rows_R]), ~np.isnan(deviation_NMA[rows_R])
    label_R = label_N[rows_R]
    own_weight_R = weight_RK[np.arange(len(rows_R)), label_R]
    with_it_RMA = (counted.total_KMA / weight_KMA)[label_R]
    without_RMA = (counted.total_KMA[label_R] - own_RMA) / np.maximum(weight_KMA[label_R] - seen_RMA, 1.0)
    predicted_RMA += own_weight_R[:, None, None] * (without_RMA - with_it_RMA)
    return deviation_NMA[rows_R] - predicted_RMA


def restore(state: RouterState) -> TableRouter:
    """Rebuild from saved state."""
    settings = read_settings(KmeansRouter.name, KmeansSettings(), state.parameters)
    centre, mean, variance = (state.arrays.get(name) for name in ("centre_KD", "mean_KMA", "variance_KMA"))
    if state.encoder is None or centre is None or mean is None or variance is None:
        raise DataError("router kmeans: the artefact lacks its encoder, centres or averages: fit it again")
    encoder = restore_encoder(state.encoder)
    cells = (len(centre), *state.statistics.mean_MA.shape)
    if centre.shape != (len(centre), encoder.dimension) or mean.shape != cells or variance.shape != cells:
        raise DataError(f"router kmeans: centres {centre.shape} do not fit the card: fit it again")
    return KmeansRouter(
        state.statistics,
        settings,
        encoder,
        centre.astype(np.float32),
        mean.astype(np.float64),
        variance.astype(np.float64),
    )


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=True)
